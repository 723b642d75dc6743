"""Weights of linear layers in AWQ's four bits or in FP8, without calibration data.

AWQ: a group is `group_size` neighbouring inputs of one output, with one scale and one integer zero
point: weight = (code - zero) * scale, code and zero in 0..15. AWQ proper also moves scale from
weights to activations; here each group gets the scale and zero point with the least squared error.

FP8: llm-compressor's FP8_DYNAMIC scheme. Weights are float8_e4m3 with one scale per output channel;
the engine scales activations per token.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

MAX_CODE = 15
CODES_PER_INT32 = 8
# Nibble i (lowest first) of an int32 holds column PACK_ORDER[i] of its eight:
# https://github.com/casper-hansen/AutoAWQ/blob/main/awq/modules/linear/gemm.py
PACK_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
# Relative to the scale that spans the group: smaller ones clip its extremes.
SCALE_RATIOS = tuple(percent / 100 for percent in range(86, 114, 2))
ZERO_SHIFTS = (-1, 0, 1)  # the best zero point is rarely an integer: its neighbours are tried
MIN_SPAN = 1e-5

MAX_FP8 = torch.finfo(torch.float8_e4m3fn).max
MIN_FP8_SCALE = 1e-12
# Inputs of these layers reach 25,000 times a token's median (layers 11 and 28): one scale per token
# leaves FP8 few steps for the rest, and the model answers "L'Étoile" when asked for a capital.
FP8_IGNORED = "down_proj"


class AwqLayer(NamedTuple):
    """A quantized linear layer; G is in / group_size."""

    codes: torch.Tensor
    """uint8 (out, in), 0..15."""
    zeros: torch.Tensor
    """uint8 (out, G), 0..15."""
    scales: torch.Tensor
    """(out, G), in the stored dtype."""


def awq_config(group_size: int) -> dict[str, Any]:
    """Return `quantization_config` as AutoAWQ writes it."""
    return {
        "bits": 4,
        "group_size": group_size,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    }


def awq_tensors(layer: str, quantized: AwqLayer) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a layer's tensors in the gemm layout, whose rows are inputs.

    qweight int32 (in, out / 8), qzeros int32 (G, out / 8), scales (G, out).
    """
    yield f"{layer}.qweight", pack_codes(quantized.codes.T)
    yield f"{layer}.qzeros", pack_codes(quantized.zeros.T)
    yield f"{layer}.scales", quantized.scales.T.contiguous()


def quantize_awq(
    weight: torch.Tensor,
    group_size: int,
    dtype: torch.dtype,
    scale_ratios: Sequence[float] = SCALE_RATIOS,
) -> AwqLayer:
    """Round a layer to four bits, with the best scale and zero point of each group.

    Args:
        weight: float32 (out, in).
        group_size: inputs in a group.
        dtype: of the stored scales.
        scale_ratios: scales to try besides the one that spans the group.

    Raises:
        ValueError: the layer does not divide into groups or words.
    """
    outputs, inputs = weight.shape
    if inputs % group_size or outputs % CODES_PER_INT32:
        raise ValueError(
            f"a ({outputs}, {inputs}) layer does not divide into groups of {group_size} inputs "
            f"and words of {CODES_PER_INT32} outputs"
        )
    # (group_size, out * G): scales broadcast along the fast axis, which is ten times faster.
    groups = weight.reshape(-1, group_size).T.contiguous()
    span_scale, span_zero = _spanning(groups, dtype)
    scale, zero = span_scale, span_zero
    least = _squared_error(groups, scale, zero)
    for ratio, shift in itertools.product(scale_ratios, ZERO_SHIFTS):
        tried_scale = (span_scale * ratio).to(dtype).float()
        tried_zero = (span_zero + shift).clamp_(0, MAX_CODE)
        error = _squared_error(groups, tried_scale, tried_zero)
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, tried_scale, scale)
        zero = torch.where(better, tried_zero, zero)
    return AwqLayer(
        codes=_codes(groups, scale, zero).T.reshape(outputs, inputs).to(torch.uint8),
        zeros=zero.reshape(outputs, -1).to(torch.uint8),
        scales=scale.reshape(outputs, -1).to(dtype),
    )


def pack_codes(codes: torch.Tensor) -> torch.Tensor:
    """Pack (rows, columns) of 0..15 into int32 (rows, columns / 8), eight columns in PACK_ORDER."""
    rows, columns = codes.shape
    eights = codes.to(torch.int64).reshape(rows, columns // CODES_PER_INT32, CODES_PER_INT32)
    words = (eights[..., list(PACK_ORDER)] << torch.arange(0, 32, 4)).sum(dim=-1)
    # The words are unsigned; int32 keeps their bits.
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _spanning(groups: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each group's scale from its minimum to its maximum, and the zero point.

    Zero counts as a value: a zero point outside 0..15 cannot be stored. The scale is rounded to
    `dtype`.
    """
    low, high = groups.amin(dim=0).clamp_(max=0), groups.amax(dim=0).clamp_(min=0)
    scale = ((high - low).clamp_(min=MIN_SPAN) / MAX_CODE).to(dtype).float()
    return scale, (-low / scale).round_().clamp_(0, MAX_CODE)


def _codes(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    return (groups / scale).add_(zero).round_().clamp_(0, MAX_CODE)


def _squared_error(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    steps = _codes(groups, scale, zero).sub_(zero)
    return steps.mul_(scale).sub_(groups).square_().sum(dim=0)


def fp8_config() -> dict[str, Any]:
    """Return `quantization_config` as compressed-tensors writes it."""
    number = {"num_bits": 8, "type": "float", "symmetric": True}
    return {
        "config_groups": {
            "group_0": {
                "input_activations": {**number, "dynamic": True, "strategy": "token"},
                "output_activations": None,
                "targets": ["Linear"],
                "weights": {**number, "dynamic": False, "strategy": "channel"},
            }
        },
        "format": "float-quantized",
        "ignore": ["lm_head", f"re:.*{FP8_IGNORED}"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def fp8_tensors(layer: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a layer's tensors: weight float8_e4m3 (out, in), weight_scale float32 (out, 1)."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=MIN_FP8_SCALE) / MAX_FP8
    yield f"{layer}.weight", (weight / scale).clamp(-MAX_FP8, MAX_FP8).to(torch.float8_e4m3fn)
    yield f"{layer}.weight_scale", scale
