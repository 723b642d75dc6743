"""Size of a model's weights, published or still to be quantized."""

import pytest

from builder.errors import CheckpointRefused
from builder.plan.model_metadata import ModelMetadata
from builder.plan.quantization_groups import QuantizationGroups
from builder.plan.weights import WeightSizes, measure_weights
from handler.model.safetensors import Tensor


def unquantized(*tensors):
    return ModelMetadata("m", None, {}, tensors, None)


@pytest.mark.parametrize(("width", "size"), [(256, 128), (96, 32)])
def test_awq_is_planned_with_the_groups_that_quantize_makes(width, size):
    name = "model.layers.0.self_attn.q_proj.weight"
    model = unquantized(Tensor(name, "BF16", (64, width), 128 * width))
    weights = measure_weights(model, "awq")
    assert (weights.groups, weights.bytes) == (
        QuantizationGroups(size),
        64 * width // 2 + 64 * width // size * 5 // 2,
    )


def test_a_depthwise_convolution_is_not_quantized():
    conv = Tensor("model.layers.0.conv.conv.weight", "BF16", (64, 1, 3), 384)
    assert measure_weights(unquantized(conv), "awq").bytes == 384


def test_a_layer_that_no_groups_divide_cannot_be_quantized_as_awq():
    with pytest.raises(CheckpointRefused) as raised:
        measure_weights(unquantized(Tensor("a.q_proj.weight", "BF16", (64, 40), 5120)), "awq")
    assert str(raised.value) == (
        "AWQ's groups of 128 or 32 do not divide the 40 inputs of a.q_proj.weight: choose fp8."
    )


@pytest.mark.parametrize(
    ("name", "element_bytes"),
    [
        ("model.embed_tokens.weight", 2),
        ("model.layers.0.mlp.gate.weight", 2),
        ("model.layers.0.mlp.experts.0.up_proj.weight", 1),
        ("model.layers.0.block_sparse_moe.input_linear.weight", 1),
        ("model.layers.0.self_attn.q_proj.weight", 1),
        ("model.visual.blocks.0.attn.qkv.weight", 2),
        ("lm_head.weight", 2),
    ],
)
def test_only_linear_layers_of_the_language_model_are_quantized(name, element_bytes):
    model = unquantized(Tensor(name, "BF16", (8, 16), 256))
    assert measure_weights(model, "fp8").bytes == 128 * element_bytes


@pytest.mark.parametrize("name", ["l.experts.0.w", "l.block_sparse_moe.output_linear.weight"])
def test_experts_are_counted_apart(name):
    model = unquantized(Tensor(name, "BF16", (8, 16), 256))
    assert measure_weights(model, "auto").expert_bytes == 256


@pytest.mark.parametrize(("names", "expected"), [([], 0), (["lm_head.weight"], 256)])
def test_an_embedding_is_read_by_row_unless_it_is_tied_to_the_last_layer(names, expected):
    names = ["model.embed_tokens.weight", *names]
    model = unquantized(*(Tensor(name, "BF16", (8, 16), 256) for name in names))
    assert measure_weights(model, "auto").embedding_bytes == expected


def test_one_request_reads_its_experts_and_many_requests_read_all():
    mixture = WeightSizes(100, 80, 4, "fp8", True)
    assert mixture.step_bytes(1, experts=8, experts_per_token=2) == 100 - 4 - 80 * 0.75
    assert mixture.step_bytes(100, experts=8, experts_per_token=2) == pytest.approx(96)
    dense = WeightSizes(100, 0, 0, "awq", True)
    assert dense.step_bytes(1, experts=1, experts_per_token=1) == 100
