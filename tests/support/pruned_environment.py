"""An engine's CUDA environment without what its image leaves out."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, distributions
from os import link
from pathlib import Path
from subprocess import CompletedProcess, run

from builder.image_layers import pruned_files, pruned_packages, remove, strip, stripped_files
from tests.support.elf import loaded_sections
from tests.support.environment import ROOT, START_SECONDS

REQUIREMENTS = ROOT / "requirements"
ENVIRONMENTS = {"vllm": ROOT / ".venv-cuda", "sglang": ROOT / ".venv-sglang-cuda"}


def pruned(engine: str) -> str:
    """Return the list of what the image of an engine leaves out."""
    names = ("pruned.txt", f"pruned-{engine}.txt")
    return "\n".join((REQUIREMENTS / name).read_text() for name in names)


def patterns(engine: str) -> list[str]:
    return pruned_files(pruned(engine)) + stripped_files(pruned(engine))


def site_packages(environment: Path) -> Path:
    [packages] = environment.glob("lib/python*/site-packages")
    return packages


@contextmanager
def pruned_environment(engine: str) -> Iterator[Path]:
    """Yield a copy of an engine's environment, with hard links, in which the list is left out."""
    text = pruned(engine)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".venv-pruned-") as folder:
        environment = Path(folder, "environment")
        source = ENVIRONMENTS[engine].resolve()
        shutil.copytree(source, environment, symlinks=True, copy_function=link)
        packages = site_packages(environment)
        for package in list(distributions(path=[str(packages)])):
            if normalized(package.name) in pruned_packages(text):
                uninstall(package, packages)
        remove(packages, pruned_files(text))
        strip(packages, stripped_files(text))
        yield environment


def run_once(environment: Path, variables: dict[str, str]) -> CompletedProcess[str]:
    """Start the worker of an environment, which answers test_input.json and ends."""
    return run(
        [environment / "bin/python", "-m", "handler"],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


def assert_same_when_loaded(environment: Path, engine: str) -> None:
    """Assert that the stripped libraries of a copy have all that is loaded of the engine's own."""
    packages, complete = site_packages(environment), site_packages(ENVIRONMENTS[engine])
    for pattern in stripped_files(pruned(engine)):
        for library in packages.glob(pattern):
            before = loaded_sections(complete / library.relative_to(packages))
            assert loaded_sections(library) == before, library.name


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def uninstall(package: Distribution, packages: Path) -> None:
    """Remove a package's files, their bytecode, and the folders that are empty then."""
    folders = set()
    for file in package.files or ():
        path = packages / file
        path.unlink(missing_ok=True)
        for bytecode in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            bytecode.unlink()
        folders |= {path.parent / "__pycache__", *path.parents}
    for folder in sorted(folders, reverse=True):
        if packages in folder.parents and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
