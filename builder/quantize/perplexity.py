"""The perplexity of a model on disk: the exponential of the mean loss of a text's tokens.

Importing it imports torch and transformers, which takes seconds.
"""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from builder.errors import QuantizationFailed
from builder.quantize.recipe import Method

log = logging.getLogger("quantize")

PROGRESS_INTERVAL_SECONDS = 30.0


def perplexity(
    folder: Path, windows: Sequence[Sequence[int]], method: Method | None = None
) -> float:
    """Return the perplexity of the model in a folder; each window of token ids is read on its own.

    Raises:
        QuantizationFailed: the quantized weights cannot be loaded, or the loss is not a number.
    """
    model = _load(folder, method)
    loss, tokens, logged = 0.0, 0, time.monotonic()
    for number, window in enumerate(windows, 1):
        loss += _window_loss(model, window)
        tokens += len(window) - 1
        if time.monotonic() - logged > PROGRESS_INTERVAL_SECONDS:
            logged = time.monotonic()
            log.info("read window %d of %d", number, len(windows))
    mean = loss / tokens
    if not math.isfinite(mean):
        raise QuantizationFailed(f"the model in {folder} has a mean loss of {mean}.")
    return math.exp(mean)


def _load(folder: Path, method: Method | None) -> Any:
    load: Any = AutoModelForCausalLM.from_pretrained  # its type is without output_loading_info
    options: dict[str, Any] = {}
    if torch.accelerator.is_available():
        # accelerate spreads the model over the GPUs, and over main memory.
        options["device_map"] = "auto"
    if method == "awq":
        # Dequantize once: only weights are quantized, so the result is the same.
        # Left out for others: transformers takes None for "not quantized".
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    model, loading = load(
        folder,
        dtype="auto",
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    unmatched = sorted({*loading["missing_keys"], *loading["unexpected_keys"]})
    if method and unmatched:
        raise QuantizationFailed(
            f"the written checkpoint cannot be loaded: {unmatched[0]} is missing or unknown."
        )
    return model.train(False)


def _window_loss(model: torch.nn.Module, window: Sequence[int]) -> float:
    """Return the summed loss of all tokens but the first."""
    ids = torch.tensor([list(window)], device=next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    targets = ids[0, 1:].to(logits.device)
    return float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
