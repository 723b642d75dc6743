"""Make the quantized folder: measure the base, quantize, measure the result, write the manifest.

torch and llm-compressor are imported only when a model is to be quantized.
"""

import logging
import os
import resource
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builder.errors import BuilderError, QuantizationFailed
from builder.fetch.output_folder import (
    atomic_folder,
    exclusive_lock,
    existing_manifest,
    file_checksums,
    folder_in_use,
    is_intact,
    write_manifest,
)
from builder.quantize.documents import (
    Document,
    TextFile,
    calibration_and_held_out,
    token_windows,
)
from builder.quantize.inputs import BaseCheckpoint
from builder.quantize.model_card import MIN_COMPARED_TOKENS, QuantizationResult, model_card
from builder.quantize.recipe import RECIPE_FILE, QuantizationRecipe
from handler.errors import StartError, one_line
from handler.model import hub_files
from handler.model.checkpoint import quantization_of
from handler.model.manifest import MANIFEST_NAME, ManifestFile
from handler.model.quantization import method_matches

log = logging.getLogger("quantize")

MAX_HELD_OUT_WINDOWS = 32  # enough for two digits, and minutes without a GPU
# Files of the base that describe how the base was made.
NOT_COPIED = (RECIPE_FILE, MANIFEST_NAME, "recipe.json")
FILE_MODE = 0o644  # transformers writes weights that only their owner may read


@dataclass(frozen=True)
class QuantizationTask:
    """One model to quantize.

    Attributes:
        dataset: text to calibrate with, if the method needs any, and to hold out from.
        held_out: text to measure perplexity on; equal to `dataset` for its last tenth.
    """

    base: BaseCheckpoint
    recipe: QuantizationRecipe
    dataset: TextFile | None
    held_out: TextFile


def quantize_to_folder(task: QuantizationTask, folder: Path) -> None:
    """Make the quantized model's folder, unless it exists with the same recipe.

    Raises:
        CheckpointRefused, InvalidArgument: the folder is in use, or an input is invalid.
        QuantizationFailed: llm-compressor or transformers failed on the model.
    """
    target = folder.resolve()
    with exclusive_lock(target.with_name(f".{target.name}.lock"), log.info):
        if _is_finished(task, folder):
            log.info("%s is finished, nothing to do", folder)
            return
        with atomic_folder(target) as part:
            result = _quantize(task, part)
            _copy_small_files(task.base.folder, part)
            card = model_card(target.name, task.base, task.recipe, task.held_out, result)
            (part / "README.md").write_text(card, encoding="utf-8")
            (part / RECIPE_FILE).write_text(task.recipe.json_text(), encoding="utf-8")
            _finish(part, task, target.name)
    log.info("%-10sperplexity", "")
    log.info("%-10s%10.3f", "before", result.before)
    log.info("%-10s%10.3f  %+.1f %%", "after", result.after, result.change_percent)


def _is_finished(task: QuantizationTask, folder: Path) -> bool:
    there = existing_manifest(folder)
    if there is None:
        return False
    recipe = folder / RECIPE_FILE
    if not recipe.is_file():
        raise folder_in_use(folder, "was not made by this command")
    if difference := task.recipe.difference(recipe.read_text(encoding="utf-8")):
        raise folder_in_use(folder, difference)
    return is_intact(folder, there)


def _quantize(task: QuantizationTask, folder: Path) -> QuantizationResult:
    calibration, held_out = calibration_and_held_out(task.dataset, task.held_out)
    try:
        with _silenced_libraries():
            result = _quantize_and_measure(task, folder, calibration, held_out)
    except (BuilderError, StartError, OSError):
        raise
    except Exception as error:
        reason = one_line(str(error)) or type(error).__name__
        raise QuantizationFailed(f"{task.base.repository} cannot be quantized: {reason}") from error
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    log.info("used at most %.1f GB of main memory", peak_gb)
    return result


def _quantize_and_measure(
    task: QuantizationTask, folder: Path, calibration: list[Document], held_out: list[Document]
) -> QuantizationResult:
    log.info("loading torch and llm-compressor")
    from transformers import AutoTokenizer

    from builder.quantize.compressor import quantize_awq, quantize_fp8
    from builder.quantize.perplexity import perplexity

    _forward_library_warnings()
    base, recipe = task.base.folder, task.recipe
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    windows = token_windows(held_out, tokenizer, recipe.sequence_tokens, MAX_HELD_OUT_WINDOWS)
    samples = []
    if recipe.samples:
        samples = token_windows(calibration, tokenizer, recipe.sequence_tokens, recipe.samples)
        if len(samples) < recipe.samples:
            log.warning("the data set has text for %d of %d samples", len(samples), recipe.samples)
    compared = sum(map(len, windows)) - len(windows)  # a window's first token is not predicted
    if compared < MIN_COMPARED_TOKENS:
        log.warning("only %d tokens are compared: use --held-out FILE with more text", compared)
    before = perplexity(base, windows)
    log.info("perplexity %.3f before, on %d tokens of %s", before, compared, task.held_out.name)
    if recipe.method == "awq":
        layers = quantize_awq(base, folder, samples, recipe)
    else:
        layers = quantize_fp8(base, folder)
    log.info("%d layers are quantized; reading them back", layers.count)
    after = perplexity(folder, windows, recipe.method)
    return QuantizationResult(
        layers=layers,
        calibrated_tokens=sum(map(len, samples)),
        compared_tokens=compared,
        before=before,
        after=after,
        version=version("llmcompressor"),
    )


@contextmanager
def _silenced_libraries() -> Iterator[None]:
    """Discard what libraries print; the log keeps the stderr that it was set up with."""
    # llm-compressor sets this variable if it is not set, and warns that it has set it.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with (
        open(os.devnull, "w", encoding="utf-8") as devnull,
        redirect_stdout(devnull),
        redirect_stderr(devnull),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _forward_library_warnings() -> None:
    """Log llm-compressor's warnings, each once, and errors of transformers and torch."""
    from loguru import logger
    from transformers import logging as transformers_logging

    seen: set[str] = set()

    def forward(message: Any) -> None:
        text = message.record["message"]
        if text not in seen:
            seen.add(text)
            log.warning("%s", one_line(text))

    logger.remove()
    logger.add(forward, level="WARNING")
    transformers_logging.set_verbosity(logging.ERROR)
    logging.getLogger("torch").setLevel(logging.ERROR)


def _copy_small_files(base: Path, part: Path) -> None:
    """Copy the tokenizer, the licence and other small files that were not written.

    A newer transformers would write a tokenizer that an engine's older one cannot read.
    """
    names = (path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file())
    for name in hub_files.engine_files("tokenizer", names):
        target = part / name
        if name in NOT_COPIED or name.endswith("index.json") or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base / name, target)


def _finish(part: Path, task: QuantizationTask, title: str) -> None:
    found = quantization_of(part)
    if found is None or not method_matches(task.recipe.method, found):
        raise QuantizationFailed(
            f"the written checkpoint is quantized as {found!r}, not {task.recipe.method}."
        )
    files = []
    for path in sorted(path for path in part.rglob("*") if path.is_file()):
        path.chmod(FILE_MODE)
        size, sha256, _ = file_checksums(path)
        files.append(
            ManifestFile(path=path.relative_to(part).as_posix(), bytes=size, sha256=sha256)
        )
    base = task.base
    made = write_manifest(
        part,
        files,
        # The model's name for callers; without a hub it is the folder's.
        repository=base.repository if base.is_from_hub else title,
        revision=base.revision,
        commit=base.commit,
        quantization=found,
        licence=base.licence,
    )
    log.info("%d files, %.1f MB; quantization %s", len(files), made.total_bytes / 1e6, found)
