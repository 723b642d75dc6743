"""Compile FlashInfer's kernels for some GPUs while an image is built, without a GPU.

    python -m builder.kernels 9.0a,8.9 --engine sglang --config CONFIG_JSON --out SITE_PACKAGES

What FlashInfer needs it compiles at the first start on a GPU, for minutes. The modules of this
command become a package `flashinfer_jit_cache`, in which FlashInfer looks first; on a GPU that is
not named here, or for a module that is not in the package, it compiles as without the package. An
architecture is the compute capability of a GPU (`nvidia-smi --query-gpu=compute_cap --format=csv`),
with an `a` from 9.0 on. It takes the engine's environment, in which FlashInfer is.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from builder.errors import BuilderError, InvalidArgument
from builder.kernel_modules import Model, read_model, specifications

ARCHITECTURE = re.compile(r"(\d{1,2})\.(\d)[af]?")
PROVIDER = '''\
"""FlashInfer's modules that the image's build compiled (builder/kernels.py)."""

from pathlib import Path
from types import SimpleNamespace

__version__ = {version!r}
MODULES = {modules!r}


def get_jit_cache_providers():
    return tuple(
        SimpleNamespace(
            provider_id="image-" + "-".join(architectures),
            distribution="flashinfer-jit-cache",
            version=__version__,
            jit_cache_dir=str(Path(__file__).parent / "modules"),
            cuda_architectures=architectures,
            modules=modules,
        )
        for architectures, modules in MODULES.items()
    )
'''


def main(argv: Sequence[str] | None = None) -> int:
    """Compile and write the package; an error is one line, and its exit code."""
    options = _parser().parse_args(argv)
    try:
        architectures = parse_architectures(options.architectures)
        model = read_model(options.config) if options.config else None
        for line in bake(architectures, options.engine, model, options.gpus, options.out):
            print(line)
    except BuilderError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def bake(
    architectures: Sequence[str], engine: str, model: Model | None, gpus: int, folder: Path
) -> list[str]:
    """Compile the modules, write the package, and return lines that say what it has."""
    libraries: dict[tuple[str, ...], list[Path]] = {}
    with tempfile.TemporaryDirectory() as workspace:
        os.environ["FLASHINFER_WORKSPACE_BASE"] = workspace
        os.environ["FLASHINFER_CUDA_ARCH_LIST"] = " ".join(architectures)
        by_targets = specifications(architectures, engine, model, gpus)
        for targets, described in by_targets.items():
            set_targets(targets)
            libraries[targets] = [compile_module(describe()) for describe in described]
        write_package(folder, libraries)
    return [
        f"{library.stem} for {', '.join(targets)}"
        for targets, paths in libraries.items()
        for library in paths
    ]


def set_targets(architectures: Sequence[str]) -> None:
    """Let FlashInfer compile for these; it reads the variable when it is imported, and again."""
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = " ".join(architectures)
    core = import_module("flashinfer.jit.core")
    core.current_compilation_context.TARGET_CUDA_ARCHS = core.CompilationContext().TARGET_CUDA_ARCHS


def parse_architectures(text: str) -> list[str]:
    """Return the architectures of a list such as `9.0a,8.9`.

    Raises:
        InvalidArgument: one is not a compute capability.
    """
    names = [name for name in re.split(r"[,\s]+", text) if name]
    for name in names:
        if not ARCHITECTURE.fullmatch(name):
            raise InvalidArgument(
                f"{name!r} is not a compute capability: give a list such as 9.0a,8.9."
            )
    if not names:
        raise InvalidArgument("no architecture is given: a list such as 9.0a,8.9.")
    return names


def compile_module(specification: Any) -> Path:
    """Compile a module of FlashInfer; return its library, whose name is the module's."""
    try:
        specification.build()
    except RuntimeError as error:
        raise BuilderError(f"{specification.name} was not compiled: {error}") from error
    library: Path = specification.jit_library_path
    return library


def write_package(folder: Path, libraries: Mapping[tuple[str, ...], Sequence[Path]]) -> None:
    """Write the package in which FlashInfer looks for the libraries of some architectures."""
    package = folder / "flashinfer_jit_cache"
    modules = {}
    for targets, paths in libraries.items():
        for path in paths:
            (package / "modules" / path.stem).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, package / "modules" / path.stem)
        names = tuple("sm" + target.replace(".", "") for target in targets)
        modules[names] = tuple(path.stem for path in paths)
    version = import_module("flashinfer.version").__version__
    (package / "__init__.py").write_text(PROVIDER.format(version=version, modules=modules))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m builder.kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("architectures", help="compute capabilities, such as 9.0a,8.9")
    parser.add_argument("--engine", choices=("vllm", "sglang"), default="vllm")
    parser.add_argument(
        "--config", type=Path, help="the model's config.json; without it, what all models use"
    )
    parser.add_argument("--gpus", type=int, default=1, help="of a worker, for TENSOR_PARALLEL_SIZE")
    parser.add_argument("--out", type=Path, required=True, help="folder for the package")
    return parser


if __name__ == "__main__":
    sys.exit(main())
