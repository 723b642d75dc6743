"""The layers of an image that is built from an engine's locked wheels.

    python -m builder.image_layers split LOCK --pruned FILE… --out DIRECTORY
    python -m builder.image_layers install LAYER --prune FILE
    python -m builder.image_layers shipped LOCK WORKER_LOCK --pruned FILE…

A layer is pushed and pulled again only when its own packages change: CUDA's libraries and torch
change seldom, the engine often. `split` writes one hashed requirements file for each layer;
`install` installs one into the environment of the Python that runs it, so that the same file always
makes the same layer: every time stamp is the same, and bytecode is compiled. `shipped` prints the
lock of everything that an image has.

What the worker never loads is left out: the files of `--pruned` have names of packages, patterns of
files below site-packages, and patterns of libraries to strip, which `split` writes to `files.txt`
for `install`.

It imports nothing of the project, because a change there would install everything again.
"""

import argparse
import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

LAYERS = ("cuda", "torch", "dependencies", "engine")
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)==.*(?:\n[ #].*)*", re.MULTILINE)
TORCH = frozenset("torch torchaudio torchcodec torchvision triton".split())
ENGINE = re.compile(r"vllm|sglang|sglang-kernel|sgl-[\w-]+")
# Python packages for CUDA, which follow the engine and not the toolkit.
NOT_TOOLKIT = re.compile(r"nvidia-(cutlass-dsl|cudnn-frontend|ml-py)")
FILES = "files.txt"
STRIP = "strip "  # before the pattern of libraries that lose their debugging symbols
TIME_STAMP = 946684800  # 2000-01-01: the same files make the same layer


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.command == "split":
        for name, text in split(options.lock.read_text(), _read(options.pruned)).items():
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / name).write_text(text)
        return 0
    if options.command == "shipped":
        pruned = _read(options.pruned)
        print(shipped(options.lock.read_text(), options.worker.read_text(), pruned))
        return 0
    return install(options.layer, options.prune.read_text())


def split(lock: str, pruned: str) -> dict[str, str]:
    """Return the text of each layer's requirements file, and of the list of files to prune."""
    packages, files = pruned_packages(pruned), pruned_files(pruned)
    entries = {match["name"]: match[0] for match in ENTRY.finditer(lock)}
    layers: dict[str, list[str]] = {name: [] for name in LAYERS}
    for name, entry in entries.items():
        if name not in packages:
            layers[layer_of(name)].append(entry)
    texts = {f"{name}.txt": "".join(f"{entry}\n" for entry in layers[name]) for name in LAYERS}
    files += [f"{STRIP}{pattern}" for pattern in stripped_files(pruned)]
    return {**texts, FILES: "".join(f"{line}\n" for line in files)}


def layer_of(package: str) -> str:
    """Return the layer of a package, by its normalized name."""
    if ENGINE.fullmatch(package):
        return "engine"
    if package in TORCH:
        return "torch"
    if package.startswith("nvidia-") and not NOT_TOOLKIT.match(package):
        return "cuda"
    return "dependencies"


def pruned_packages(pruned: str) -> set[str]:
    return {line for line in _lines(pruned) if "/" not in line and not line.startswith(STRIP)}


def pruned_files(pruned: str) -> list[str]:
    return [line for line in _lines(pruned) if "/" in line and not line.startswith(STRIP)]


def stripped_files(pruned: str) -> list[str]:
    return [line.removeprefix(STRIP) for line in _lines(pruned) if line.startswith(STRIP)]


def install(layer: Path, pruned: str) -> int:
    """Install a layer's packages, prune files, compile the rest; return uv's exit code."""
    command = ["uv", "pip", "install", "--python", sys.executable, "--no-cache", "--no-progress"]
    command += ["--no-deps", "--require-hashes", "-r", str(layer)]
    if layer.read_text() and (code := subprocess.run(command).returncode):
        return code
    packages, environment = Path(sysconfig.get_path("purelib")), Path(sys.prefix)
    remove(packages, pruned_files(pruned))
    strip(packages, stripped_files(pruned))
    set_time_stamps(environment)  # bytecode has its source's
    compileall.compile_dir(packages, quiet=2, workers=0)
    set_time_stamps(environment)
    return 0


def remove(folder: Path, patterns: Iterable[str]) -> None:
    """Remove what matches the patterns, which `**` makes recursive."""
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def strip(folder: Path, patterns: Iterable[str]) -> None:
    """Remove symbols that the loader does not need from the libraries that match the patterns."""
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        stripped = path.with_name(f"{path.name}.stripped")
        subprocess.run(["strip", "--strip-unneeded", "-o", stripped, path], check=True)
        stripped.replace(path)  # a hard link to the library keeps its content


def set_time_stamps(folder: Path) -> None:
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.utime(Path(parent, name), (TIME_STAMP, TIME_STAMP), follow_symlinks=False)
    os.utime(folder, (TIME_STAMP, TIME_STAMP))


def shipped(lock: str, worker: str, pruned: str) -> str:
    """Return the lock of an image: the engine's without what is left out, and what the worker adds.

    A package of both has the engine's version. Packages whose marker excludes this interpreter
    are left out.
    """
    entries = {match["name"]: match[0] for text in (worker, lock) for match in ENTRY.finditer(text)}
    kept = [entries[name] for name in sorted(entries.keys() - pruned_packages(pruned))]
    return "\n".join(entry for entry in kept if _is_installed(entry))


def _is_installed(entry: str) -> bool:
    """Whether an entry's marker is true for this interpreter."""
    from packaging.requirements import Requirement  # which the image's build has not

    marker = Requirement(entry.partition(" \\")[0]).marker
    return marker is None or marker.evaluate()


def _read(files: Iterable[Path]) -> str:
    return "\n".join(file.read_text() for file in files)


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line := line.partition("#")[0].strip():
            yield line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m builder.image_layers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("split", help="write each layer's requirements file")
    command.add_argument("lock", type=Path, help="an engine's hashed requirements file")
    command.add_argument("--pruned", type=Path, nargs="*", default=[], help="what is left out")
    command.add_argument("--out", type=Path, required=True, metavar="DIRECTORY")
    command = commands.add_parser("install", help="install one layer with uv")
    command.add_argument("layer", type=Path, help="the layer's requirements file")
    command.add_argument("--prune", type=Path, required=True, help="patterns of files")
    command = commands.add_parser("shipped", help="print the lock of an image")
    command.add_argument("lock", type=Path, help="an engine's hashed requirements file")
    command.add_argument("worker", type=Path, help="the worker's")
    command.add_argument("--pruned", type=Path, nargs="*", default=[], help="what is left out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
