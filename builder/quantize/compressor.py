"""llm-compressor at work: a model on disk → the same one quantized, in compressed-tensors.

All code that knows llm-compressor's names stands here. Importing it imports torch, transformers
and llm-compressor, which takes seconds. It does not know where the text comes from.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import (  # type: ignore[import-untyped]
    QuantizationArgs,
    QuantizationScheme,
)
from compressed_tensors.utils import (  # type: ignore[import-untyped]
    match_named_modules,
    patch_attr,
)
from llmcompressor import oneshot  # type: ignore[import-not-found]
from llmcompressor.modeling.moe.linearize import (  # type: ignore[import-not-found]
    linearize_moe,
)
from llmcompressor.modifiers.quantization import (  # type: ignore[import-not-found]
    QuantizationModifier,
)
from llmcompressor.modifiers.transform.awq import (  # type: ignore[import-not-found]
    AWQModifier,
)
from llmcompressor.pipelines.cache import (  # type: ignore[import-not-found]
    IntermediatesCache,
)
from pydantic import PrivateAttr
from transformers import AutoModelForCausalLM

from builder.quantize.recipe import IGNORED, Recipe, group_size
from builder.quantize.result import Written

log = logging.getLogger("quantize")

TARGETS = ["Linear"]


class Awq(AWQModifier):  # type: ignore[misc]
    """AWQ that says how far it is: it takes minutes to hours."""

    layers: int
    _done: int = PrivateAttr(default=0)

    def on_sequential_epoch_end(self, state: Any, event: Any, **kwargs: Any) -> None:
        """Search the scales of one layer; what comes after the last layer has none."""
        super().on_sequential_epoch_end(state, event, **kwargs)
        self._done += 1
        if self._done <= self.layers:
            log.info("layer %d of %d", self._done, self.layers)


def to_fp8(base: Path, folder: Path) -> Written:
    """Round weights to FP8, one scale per output; activations are scaled while an engine runs."""
    model = _load(base)
    count = len(_linears(model))
    scheme = QuantizationModifier(targets=TARGETS, scheme="FP8_DYNAMIC", ignore=list(IGNORED))
    oneshot(model=model, recipe=[scheme])
    _save(model, folder)
    return Written(count)


def to_awq(base: Path, folder: Path, rows: Sequence[Sequence[int]], recipe: Recipe) -> Written:
    """Round weights to four bits after AWQ has moved scale from them to the activations.

    Args:
        base: the unquantized model.
        folder: where to.
        rows: windows of tokens to calibrate with.
        recipe: how many scales are tried, and the size of groups that is asked for.

    Raises:
        CheckpointRefused: the layers do not divide into groups.
    """
    model = _load(base)
    widths = _linears(model)
    size = group_size(widths, recipe.group_size)
    log.info("%d layers in groups of %d inputs, %d samples", len(widths), size, len(rows))
    # transformers, which reads back what was written, takes no four-bit experts with zero points.
    zero_points = not any(".experts." in name for name in widths)
    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=not zero_points, strategy="group", group_size=size
    )
    scheme = QuantizationScheme(targets=TARGETS, weights=weights)
    modifiers = [
        Awq(n_grid=recipe.grid, layers=model.config.num_hidden_layers),
        QuantizationModifier(config_groups={"group_0": scheme}, ignore=list(IGNORED)),
    ]
    with _unpinned():
        oneshot(model=model, recipe=modifiers, dataset=_batches(rows))
    _save(model, folder)
    return Written(len(widths), size, zero_points)


def _load(folder: Path) -> Any:
    """Load into main memory: llm-compressor moves one layer after the other to a GPU itself."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, trust_remote_code=False
    )
    # Experts one by one, so that each is a layer of its own. Loading them so, which llm-compressor
    # can as well, would need torchvision, for models of other kinds.
    linearize_moe(model)
    return model


def _linears(model: torch.nn.Module) -> dict[str, int]:
    """Return the input width of every layer that is to be quantized."""
    return {
        name: int(module.weight.shape[-1])
        for name, module in match_named_modules(model, TARGETS, list(IGNORED))
    }


def _batches(rows: Sequence[Sequence[int]]) -> Any:
    ids = [torch.tensor([list(row)]) for row in rows]
    batches = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def _unpinned() -> AbstractContextManager[Any]:
    """Keep AWQ from pinning memory for a GPU where there is none: torch refuses to.

    0.14.0.1 does it whatever its options say.
    """
    if torch.accelerator.is_available():
        return nullcontext()
    unpinned: AbstractContextManager[Any] = patch_attr(
        IntermediatesCache, "pin_memory", lambda *_: None
    )
    return unpinned


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, save_compressed=True)
    (folder / "recipe.yaml").unlink(missing_ok=True)  # quantize.json says it, and which text
