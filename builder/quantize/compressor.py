"""Calls of llm-compressor, which quantizes a model into the format compressed-tensors.

Importing it imports torch, transformers and llm-compressor, which takes seconds.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.utils import match_named_modules, patch_attr
from llmcompressor import oneshot
from llmcompressor.modeling.moe.linearize import linearize_moe
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from pydantic import PrivateAttr
from transformers import AutoModelForCausalLM

from builder.quantize.model_card import QuantizedLayers
from builder.quantize.recipe import IGNORED_LAYERS, QuantizationRecipe, select_group_size

log = logging.getLogger("quantize")

TARGETS = ["Linear"]


class LoggedAwq(AWQModifier):  # type: ignore[misc]
    """AWQ that logs its progress, for it takes minutes to hours."""

    layers: int
    _done: int = PrivateAttr(default=0)

    def on_sequential_epoch_end(self, state: Any, event: Any, **kwargs: Any) -> None:
        """Search the scales of one layer; the last call is for the modules after the layers."""
        super().on_sequential_epoch_end(state, event, **kwargs)
        self._done += 1
        if self._done <= self.layers:
            log.info("layer %d of %d", self._done, self.layers)


def quantize_fp8(base: Path, folder: Path) -> QuantizedLayers:
    """Round weights to FP8 with one scale per output channel; engines scale the activations."""
    model = _load(base)
    count = len(_layer_widths(model))
    scheme = QuantizationModifier(
        targets=TARGETS, scheme="FP8_DYNAMIC", ignore=list(IGNORED_LAYERS)
    )
    oneshot(model=model, recipe=[scheme])
    _save(model, folder)
    return QuantizedLayers(count)


def quantize_awq(
    base: Path, folder: Path, samples: Sequence[Sequence[int]], recipe: QuantizationRecipe
) -> QuantizedLayers:
    """Round weights to four bits after AWQ has moved scale from them to the activations.

    `samples` are windows of token ids to calibrate with.

    Raises:
        CheckpointRefused: the layers do not divide into groups.
    """
    model = _load(base)
    widths = _layer_widths(model)
    size = select_group_size(widths, recipe.group_size)
    log.info("%d layers in groups of %d inputs, %d samples", len(widths), size, len(samples))
    # transformers cannot load four-bit experts with zero points.
    zero_points = not any(".experts." in name for name in widths)
    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=not zero_points, strategy="group", group_size=size
    )
    scheme = QuantizationScheme(targets=TARGETS, weights=weights)
    modifiers = [
        LoggedAwq(n_grid=recipe.grid, layers=model.config.num_hidden_layers),
        QuantizationModifier(config_groups={"group_0": scheme}, ignore=list(IGNORED_LAYERS)),
    ]
    with _without_pinned_memory():
        oneshot(model=model, recipe=modifiers, dataset=_batches(samples))
    _save(model, folder)
    return QuantizedLayers(len(widths), size, zero_points)


def _load(folder: Path) -> Any:
    """Load into main memory: llm-compressor moves one layer after the other to a GPU itself."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, trust_remote_code=False
    )
    # Make each expert a layer of its own. llm-compressor does so itself only with torchvision.
    linearize_moe(model)
    return model


def _layer_widths(model: torch.nn.Module) -> dict[str, int]:
    """Return the input width of every layer to quantize, by name."""
    return {
        name: int(module.weight.shape[-1])
        for name, module in match_named_modules(model, TARGETS, list(IGNORED_LAYERS))
    }


def _batches(samples: Sequence[Sequence[int]]) -> Any:
    ids = [torch.tensor([list(sample)]) for sample in samples]
    batches = [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids]
    return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def _without_pinned_memory() -> AbstractContextManager[Any]:
    """Keep AWQ from pinning memory without a GPU, which torch refuses.

    llm-compressor 0.14.0.1 pins it with any options.
    """
    if torch.accelerator.is_available():
        return nullcontext()
    patch: AbstractContextManager[Any] = patch_attr(
        IntermediatesCache, "pin_memory", lambda *_: None
    )
    return patch


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, save_compressed=True)
    (folder / "recipe.yaml").unlink(missing_ok=True)  # quantize.json has more
