"""Four-bit weights in AWQ's "gemm" layout, rounded to the nearest step of the best scale.

A group is `group_size` neighbouring inputs of one output. It has one scale and one integer zero
point: weight = (code - zero) * scale, code and zero in 0..15. AWQ proper also moves scale from
weights to activations with calibration data; this module has none and searches, per group, the
scale and zero point with the least squared error.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

BITS = 4
TOP_CODE = 2**BITS - 1
PER_INT32 = 32 // BITS
# Nibble i (lowest first) of an int32 holds column PACK_ORDER[i] of its eight.
# https://github.com/casper-hansen/AutoAWQ/blob/main/awq/modules/linear/gemm.py
PACK_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
# The scale that just spans the group, made smaller (clips the ends) or a little larger.
SCALE_RATIOS = tuple(percent / 100 for percent in range(86, 114, 2))
# The zero point's real position is rarely an integer; its neighbours are tried too.
ZERO_SHIFTS = (-1, 0, 1)
SMALLEST_SPAN = 1e-5


@dataclass(frozen=True)
class Quantized:
    """One linear layer in four bits; G is inputs / group_size."""

    codes: torch.Tensor
    """uint8 (out, in), 0..15."""
    zeros: torch.Tensor
    """uint8 (out, G), 0..15."""
    scales: torch.Tensor
    """(out, G) in the dtype that is stored."""

    def dequantized(self) -> torch.Tensor:
        """Float32 (out, in)."""
        outputs, groups = self.scales.shape
        codes = self.codes.float().reshape(outputs, groups, -1)
        steps = codes - self.zeros.float().unsqueeze(-1)
        return (steps * self.scales.float().unsqueeze(-1)).reshape(outputs, -1)


def quantization_config(group_size: int) -> dict[str, Any]:
    """What AutoAWQ writes into `config.json`."""
    return {
        "bits": BITS,
        "group_size": group_size,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    }


def quantize_plain(weight: torch.Tensor, group_size: int, dtype: torch.dtype) -> Quantized:
    """Round to nearest on the scale that spans each group: what there is without a search."""
    groups = _grouped(weight, group_size)
    return _rounded(weight.shape, groups, *_spanning(groups, dtype), dtype)


def quantize(weight: torch.Tensor, group_size: int, dtype: torch.dtype) -> Quantized:
    """Round to nearest on each group's best of the searched scales and zero points.

    `weight` is float32 (out, in). The plain choice is the first candidate, so no group's squared
    error is larger than `quantize_plain`'s.
    """
    groups = _grouped(weight, group_size)
    plain_scale, plain_zero = _spanning(groups, dtype)
    scale, zero = plain_scale, plain_zero
    least = _squared_error(groups, scale, zero)
    for ratio, shift in itertools.product(SCALE_RATIOS, ZERO_SHIFTS):
        other_scale = (plain_scale * ratio).to(dtype).float()
        other_zero = (plain_zero + shift).clamp_(0, TOP_CODE)
        error = _squared_error(groups, other_scale, other_zero)
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, other_scale, scale)
        zero = torch.where(better, other_zero, zero)
    return _rounded(weight.shape, groups, scale, zero, dtype)


def pack(values: torch.Tensor) -> torch.Tensor:
    """(rows, columns) of 0..15 -> int32 (rows, columns / 8), eight columns each in PACK_ORDER."""
    rows, columns = values.shape
    eights = values.to(torch.int64).reshape(rows, columns // PER_INT32, PER_INT32)
    shifts = torch.arange(0, 32, BITS)
    words = (eights[..., list(PACK_ORDER)] << shifts).sum(dim=-1)
    # The words are unsigned; int32 keeps their bits.
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack(words: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack`: int32 (rows, columns / 8) -> uint8 (rows, columns)."""
    rows, packed = words.shape
    nibbles = (words.unsqueeze(-1) >> torch.arange(0, 32, BITS)) & TOP_CODE
    eights = torch.empty_like(nibbles)
    eights[..., list(PACK_ORDER)] = nibbles
    return eights.reshape(rows, packed * PER_INT32).to(torch.uint8)


def tensors(layer: str, quantized: Quantized) -> Iterator[tuple[str, torch.Tensor]]:
    """The three tensors of one layer; the gemm layout has inputs as rows.

    qweight int32 (in, out / 8), qzeros int32 (G, out / 8), scales (G, out).
    """
    yield f"{layer}.qweight", pack(quantized.codes.T)
    yield f"{layer}.qzeros", pack(quantized.zeros.T)
    yield f"{layer}.scales", quantized.scales.T.contiguous()


def _grouped(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """(out, in) -> (group_size, N) with N = out * G.

    A group is a column, so that scales broadcast along the fast axis: ten times faster.
    """
    outputs, inputs = weight.shape
    if inputs % group_size or outputs % PER_INT32:
        raise ValueError(
            f"a ({outputs}, {inputs}) layer does not divide into groups of {group_size} inputs "
            f"and words of {PER_INT32} outputs"
        )
    return weight.reshape(-1, group_size).T.contiguous()


def _spanning(groups: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale that reaches from each group's least to its greatest value, and its zero point.

    Zero counts as one of the values: a zero point outside 0..15 cannot be stored. Both float32
    (N,); the scale is already rounded to what `dtype` can hold.
    """
    least, greatest = groups.amin(dim=0).clamp_(max=0), groups.amax(dim=0).clamp_(min=0)
    scale = ((greatest - least).clamp_(min=SMALLEST_SPAN) / TOP_CODE).to(dtype).float()
    return scale, (-least / scale).round_().clamp_(0, TOP_CODE)


def _codes(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    return (groups / scale).add_(zero).round_().clamp_(0, TOP_CODE)


def _squared_error(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """(group_size, N) weights, their (N,) scales and zero points -> (N,) sums of squares."""
    steps = _codes(groups, scale, zero).sub_(zero)
    return steps.mul_(scale).sub_(groups).square_().sum(dim=0)


def _rounded(
    shape: torch.Size,
    groups: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    dtype: torch.dtype,
) -> Quantized:
    outputs, inputs = shape
    return Quantized(
        codes=_codes(groups, scale, zero).T.reshape(outputs, inputs).to(torch.uint8),
        zeros=zero.reshape(outputs, -1).to(torch.uint8),
        scales=scale.reshape(outputs, -1).to(dtype),
    )
