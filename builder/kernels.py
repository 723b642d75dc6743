"""Compile FlashInfer's kernels for some GPUs while an image is built, without a GPU.

    python -m builder.kernels 9.0a,8.9 --out SITE_PACKAGES

What FlashInfer needs it compiles at the first start on a GPU, for minutes. The modules of this
command become a package `flashinfer_jit_cache`, in which FlashInfer looks first; on a GPU that is
not named here it compiles them as without the package. An architecture is the compute capability
of a GPU (`nvidia-smi --query-gpu=compute_cap --format=csv`), with an `a` from 9.0 on.
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

from builder.errors import BuilderError, InvalidArgument

ARCHITECTURE = re.compile(r"(\d{1,2})\.(\d[af]?)")
# Module → the function that describes it. vLLM and SGLang sample with it on every GPU; their
# attention has kernels in wheels, as long as no setting chooses FlashInfer's.
MODULES: Mapping[str, str] = {"sampling": "flashinfer.jit.sampling:gen_sampling_module"}
PROVIDER = '''\
"""FlashInfer's modules that the image's build compiled (builder/kernels.py)."""

from pathlib import Path
from types import SimpleNamespace

__version__ = {version!r}


def get_jit_cache_providers():
    return (
        SimpleNamespace(
            provider_id="image",
            distribution="flashinfer-jit-cache",
            version=__version__,
            jit_cache_dir=str(Path(__file__).parent / "modules"),
            cuda_architectures={architectures!r},
            modules={modules!r},
        ),
    )
'''


def main(argv: Sequence[str] | None = None) -> int:
    """Compile and write the package; an error is one line, and its exit code."""
    options = _parser().parse_args(argv)
    try:
        print(bake(parse_architectures(options.architectures), options.out))
    except BuilderError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def bake(architectures: Sequence[str], folder: Path) -> str:
    """Compile the modules, write the package, and return a line that says what it has."""
    with tempfile.TemporaryDirectory() as workspace:
        os.environ["FLASHINFER_CUDA_ARCH_LIST"] = " ".join(architectures)
        os.environ["FLASHINFER_WORKSPACE_BASE"] = workspace
        libraries = {name: compile_module(function) for name, function in MODULES.items()}
        write_package(folder, architectures, libraries)
    return f"{', '.join(libraries)} for {', '.join(architectures)}"


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


def compile_module(function: str) -> Path:
    """Compile a module of FlashInfer; return its library."""
    module, _, name = function.partition(":")
    specification = getattr(import_module(module), name)()
    try:
        specification.build()
    except RuntimeError as error:
        raise BuilderError(f"{specification.name} was not compiled: {error}") from error
    library: Path = specification.jit_library_path
    return library


def write_package(
    folder: Path, architectures: Sequence[str], libraries: Mapping[str, Path]
) -> None:
    """Write the package in which FlashInfer looks for compiled modules."""
    version = import_module("flashinfer.version").__version__
    package = folder / "flashinfer_jit_cache"
    for name, library in libraries.items():
        (package / "modules" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(library, package / "modules" / name / f"{name}.so")
    targets = tuple("sm" + name.replace(".", "") for name in architectures)
    text = PROVIDER.format(version=version, architectures=targets, modules=tuple(libraries))
    (package / "__init__.py").write_text(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m builder.kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("architectures", help="compute capabilities, such as 9.0a,8.9")
    parser.add_argument("--out", type=Path, required=True, help="folder for the package")
    return parser


if __name__ == "__main__":
    sys.exit(main())
