"""One run: the base's perplexity, llm-compressor, and the perplexity of what it wrote.

torch and llm-compressor are imported here, and not before something is to be quantized.
"""

import logging
import os
import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from builder.errors import BuilderError, QuantizationFailed
from builder.quantize import data
from builder.quantize.base import Base
from builder.quantize.recipe import Recipe
from builder.quantize.result import ENOUGH_TOKENS, Result
from builder.quantize.source import Source
from builder.quantize.windows import shuffled, windows
from handler.errors import StartError, one_line

log = logging.getLogger("quantize")

MOST_WINDOWS = 32  # of the held-out text: enough for two digits, and minutes without a GPU


@dataclass(frozen=True)
class Work:
    """One model to quantize.

    Attributes:
        base: the unquantized model.
        recipe: what is done to it.
        dataset: the text to calibrate with, None where none is needed.
        held_out: the text to compare on; the data set itself if a part of it is meant.
    """

    base: Base
    recipe: Recipe
    dataset: Source | None
    held_out: Source

    def texts(self) -> tuple[list[data.Document], list[data.Document]]:
        """Return what calibrates and what is held out; no document is both.

        Raises:
            InvalidArgument: a text is not as it should be.
        """
        if self.dataset is None:
            return [], data.documents(self.held_out.path)
        documents = data.documents(self.dataset.path)
        if self.held_out == self.dataset:
            documents, held_out = data.split(documents, self.dataset.name)
        else:
            held_out = data.documents(self.held_out.path)
        return shuffled(data.without(documents, held_out, self.dataset.name)), held_out


def look() -> None:
    """Look for llm-compressor, before anything is fetched for it.

    Raises:
        QuantizationFailed: it is not installed.
    """
    if find_spec("llmcompressor") is None:
        raise QuantizationFailed(
            f"llm-compressor is not installed in {sys.prefix}: `make .venv-quantize/cpu` makes an "
            "environment that has it, and `.venv-quantize/bin/python` runs this there."
        )


def run(work: Work, folder: Path) -> Result:
    """Quantize into an empty folder, and compare what is there then with the base.

    Raises:
        InvalidArgument: a text or the model is not as it should be.
        QuantizationFailed: a library failed on the model.
    """
    texts = work.texts()
    try:
        with _quiet():
            result = _run(work, folder, *texts)
    except (BuilderError, StartError, OSError):
        raise
    except Exception as error:
        reason = one_line(str(error)) or type(error).__name__
        raise QuantizationFailed(f"{work.base.repository} cannot be quantized: {reason}") from error
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    log.info("it took %.1f GB of main memory at most", peak_gb)
    return result


def _run(
    work: Work, folder: Path, calibrating: list[data.Document], held_out: list[data.Document]
) -> Result:
    log.info("loading torch and llm-compressor")
    from builder.quantize import compressor
    from builder.quantize.perplexity import perplexity

    _hear()
    base, recipe = work.base.folder, work.recipe
    tokenizer = _tokenizer(base)
    read = windows(held_out, tokenizer, recipe.sequence_tokens, MOST_WINDOWS)
    rows = []
    if recipe.samples:
        rows = windows(calibrating, tokenizer, recipe.sequence_tokens, recipe.samples)
        if len(rows) < recipe.samples:
            log.warning("the data set has text for %d of %d samples", len(rows), recipe.samples)
    compared = sum(map(len, read)) - len(read)  # nothing comes before the first of a window
    if compared < ENOUGH_TOKENS:
        log.warning("%d tokens are few to compare on: --held-out FILE takes more", compared)
    before = perplexity(base, read)
    log.info("perplexity %.3f before, on %d tokens of %s", before, compared, work.held_out.name)
    if recipe.method == "awq":
        written = compressor.to_awq(base, folder, rows, recipe)
    else:
        written = compressor.to_fp8(base, folder)
    log.info("%d layers are quantized; reading them back", written.layers)
    after = perplexity(folder, read, recipe.method)
    tokens = sum(map(len, rows))
    return Result(written, tokens, compared, before, after, version("llmcompressor"))


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let libraries print nothing: stdout is for the folder's name, stderr for lines of ours.

    The log keeps the stderr that it began with.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # llm-compressor does it, and says so
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of libraries about each other
        yield


def _hear() -> None:
    """Have the libraries' warnings as lines of ours, each once."""
    from loguru import logger
    from transformers import logging as transformers_logging

    said: set[str] = set()

    def say(message: Any) -> None:
        text = message.record["message"]
        if text not in said:
            said.add(text)
            log.warning("%s", one_line(text))

    logger.remove()
    logger.add(say, level="WARNING")
    transformers_logging.set_verbosity(logging.ERROR)
    logging.getLogger("torch").setLevel(logging.ERROR)
