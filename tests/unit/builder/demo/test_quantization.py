"""AWQ's and FP8's rounding and packing of the demo model's layers."""

import pytest
import torch

from builder.demo.quantization import (
    PACK_ORDER,
    AwqLayer,
    awq_tensors,
    fp8_tensors,
    pack_codes,
    quantize_awq,
)

GROUP_SIZE = 32


def unpacked(words: torch.Tensor) -> torch.Tensor:
    """Return uint8 (rows, columns) from int32 (rows, columns / 8)."""
    nibbles = (words.unsqueeze(-1) >> torch.arange(0, 32, 4)) & 15
    eights = torch.empty_like(nibbles)
    eights[..., list(PACK_ORDER)] = nibbles
    return eights.reshape(len(words), -1).to(torch.uint8)


def dequantized(layer: AwqLayer) -> torch.Tensor:
    codes = layer.codes.float().reshape(*layer.scales.shape, -1)
    steps = codes - layer.zeros.float().unsqueeze(-1)
    return (steps * layer.scales.float().unsqueeze(-1)).reshape(layer.codes.shape)


def plain(weight: torch.Tensor) -> AwqLayer:
    """Round on the scale that spans each group, without a search."""
    return quantize_awq(weight, GROUP_SIZE, torch.float16, scale_ratios=())


@pytest.fixture
def weight():
    """Weights of one linear layer, a few of them far out and one group without a negative."""
    values = torch.randn(64, 96, generator=torch.Generator().manual_seed(7))
    values[::9, ::13] *= 8
    values[5, :GROUP_SIZE] = values[5, :GROUP_SIZE].abs() + 3
    return values


def test_eight_columns_are_one_int32_in_awqs_order():
    assert pack_codes(torch.arange(8).reshape(1, 8)).tolist() == [[0x75316420]]


def test_packing_sets_the_highest_bit():
    assert pack_codes(torch.full((1, 8), 15)).tolist() == [[-1]]


def test_a_packed_layer_unpacks_to_its_codes_and_scales(weight):
    quantized = quantize_awq(weight, GROUP_SIZE, torch.float16)
    stored = dict(awq_tensors("layer", quantized))
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in stored.items()} == {
        "layer.qweight": (torch.int32, (96, 8)),
        "layer.qzeros": (torch.int32, (3, 8)),
        "layer.scales": (torch.float16, (3, 64)),
    }
    assert torch.equal(unpacked(stored["layer.qweight"]).T, quantized.codes)
    assert torch.equal(unpacked(stored["layer.qzeros"]).T, quantized.zeros)
    assert torch.equal(stored["layer.scales"].T, quantized.scales)


def test_the_search_is_never_worse_than_plain_rounding(weight):

    def errors(quantized):
        difference = dequantized(quantized).double() - weight.double()
        return difference.square().reshape(64, -1, GROUP_SIZE).sum(dim=-1)

    rounded = errors(plain(weight))
    searched = errors(quantize_awq(weight, GROUP_SIZE, torch.float16))
    assert (searched <= rounded).all()
    assert searched.sum() < 0.95 * rounded.sum()


def test_plain_rounding_is_within_one_step(weight):
    layer = plain(weight)
    lost = (dequantized(layer) - weight).abs().reshape(64, -1, GROUP_SIZE)
    # The float16 scale may itself be too small by 2**-11 for each of the 15 steps.
    assert (lost <= layer.scales.float().unsqueeze(-1) * (1 + 15 * 2**-11)).all()


def test_a_layer_that_does_not_divide_into_groups_is_refused():
    with pytest.raises(ValueError, match=r"^a \(8, 40\) layer does not divide into groups of 32"):
        quantize_awq(torch.zeros(8, 40), GROUP_SIZE, torch.float16)


def test_fp8_loses_at_most_a_sixteenth_of_a_weight(weight):
    stored = dict(fp8_tensors("layer", weight))
    scale = stored["layer.weight_scale"]
    assert stored["layer.weight"].dtype == torch.float8_e4m3fn
    assert (scale.dtype, tuple(scale.shape)) == (torch.float32, (64, 1))
    lost = (stored["layer.weight"].float() * scale - weight).abs()
    # Below 2**-6 the format has equal steps of 2**-9; the factor is float32's own rounding.
    assert (lost <= torch.maximum(weight.abs() / 16, scale * 2**-10) * 1.00001).all()
