"""How well a model on disk foresees a text: the exponential of the mean loss of its tokens.

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

SAID_SECONDS = 30.0


def perplexity(
    folder: Path, windows: Sequence[Sequence[int]], written: Method | None = None
) -> float:
    """Load the model and read the windows, each from its beginning.

    Args:
        folder: with the model.
        windows: of tokens.
        written: how it was quantized, None for an unquantized one.

    Raises:
        QuantizationFailed: the model is not what was written, or foresees nothing.
    """
    model = _load(folder, written)
    loss, tokens, said = 0.0, 0, time.monotonic()
    for number, window in enumerate(windows, 1):
        loss += _loss(model, window)
        tokens += len(window) - 1
        if time.monotonic() - said > SAID_SECONDS:
            said = time.monotonic()
            log.info("read window %d of %d", number, len(windows))
    mean = loss / tokens
    if not math.isfinite(mean):
        raise QuantizationFailed(
            f"the model in {folder} foresees nothing: its mean loss is {mean}."
        )
    return math.exp(mean)


def _load(folder: Path, written: Method | None) -> Any:
    load: Any = AutoModelForCausalLM.from_pretrained  # its type is without output_loading_info
    options: dict[str, Any] = {}
    if torch.accelerator.is_available():
        # accelerate spreads the model over the GPUs, and over the memory beside them.
        options["device_map"] = "auto"
    if written == "awq":
        # The same as to dequantize for every window, where nothing but weights is quantized.
        # Not None for the others: transformers takes that for "not quantized".
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    model, loading = load(
        folder,
        dtype="auto",
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    wrong = sorted({*loading["missing_keys"], *loading["unexpected_keys"]})
    if written and wrong:
        raise QuantizationFailed(
            f"what was written cannot be read back: {wrong[0]} finds no place."
        )
    return model.train(False)


def _loss(model: torch.nn.Module, window: Sequence[int]) -> float:
    """Return the sum over all tokens but the first, which nothing comes before."""
    ids = torch.tensor([list(window)], device=next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    wanted = ids[0, 1:].to(logits.device)
    return float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
