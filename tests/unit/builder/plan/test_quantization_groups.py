"""Quantized weights that share a scale are not split over GPUs.

Widths are those of published models; tests/contract compares with vLLM's own functions.
"""

import pytest

from builder.plan.architecture import parse_architecture
from builder.plan.quantization_groups import parse_quantization_groups, split_error
from tests.support.model_configs import AWQ_GROUPS as AWQ
from tests.support.model_configs import (
    DEEPSEEK_V3,
    LLAMA_70B,
    QWEN3_235B,
    QWEN_72B,
)
from tests.support.model_configs import FP8_BLOCKS as FP8
from tests.support.model_configs import compressed_tensors_groups as in_groups


def in_blocks(side):
    return in_groups(None, strategy="block", block_structure=[side, side], type="float", num_bits=8)


SMALL_HEADS = QWEN_72B | {"intermediate_size": 28672, "head_dim": 64}
GLM_4_5_AIR = QWEN3_235B | {
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1,
}
SHARED_EXPERT = QWEN3_235B | {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512}
MOONLIGHT = QWEN3_235B | {"moe_intermediate_size": 1408, "n_shared_experts": 2}
GROUPS_10944 = "groups of 128 do not divide 10944 / 2"
EXPERTS_1536 = "blocks of 128 do not divide the experts' 1536 / 8"


def without(*names):
    """Return a quantization_config that leaves some modules unquantized."""
    return AWQ | {"modules_to_not_convert": list(names)}


@pytest.mark.parametrize(
    ("config", "quantization", "gpus", "has_fp8", "error"),
    [
        (QWEN_72B, in_groups(128), 1, False, None),
        (QWEN_72B, in_groups(128), 2, True, "groups of 128 do not divide 29568 / 2"),
        (QWEN_72B, AWQ, 2, True, "groups of 128 do not divide 29568 / 2"),
        (QWEN_72B, in_groups(32), 4, False, None),
        (QWEN_72B, in_groups(32), 8, False, "groups of 32 do not divide 29568 / 8"),
        (QWEN_72B, {"quant_method": "fp8"}, 8, False, None),
        (QWEN_72B, in_groups(None, strategy="channel", num_bits=8, type="float"), 8, True, None),
        (QWEN_72B, FP8 | {"weight_block_size": [0, 0]}, 2, True, None),
        (LLAMA_70B, in_groups(128), 8, False, None),
        (DEEPSEEK_V3, FP8, 8, False, None),
        (SMALL_HEADS, FP8, 8, True, None),
        (SMALL_HEADS, in_blocks(128), 4, True, None),
        (
            SMALL_HEADS,
            in_blocks(128),
            8,
            True,
            "blocks of 128 do not divide the 64 keys of each GPU",
        ),
    ],
)
def test_groups_of_a_dense_model_must_divide_every_split_width(
    config, quantization, gpus, has_fp8, error
):
    assert_split_error(config, quantization, gpus, has_fp8, error)


@pytest.mark.parametrize(
    ("config", "quantization", "gpus", "has_fp8", "error"),
    [
        (QWEN3_235B, FP8, 4, False, None),
        (QWEN3_235B, FP8, 8, True, None),
        (QWEN3_235B, FP8, 8, False, f"no FP8, and {EXPERTS_1536}"),
        (QWEN3_235B, AWQ, 8, False, None),
        (QWEN3_235B, in_groups(128), 8, True, EXPERTS_1536.replace("blocks", "groups")),
        (QWEN3_235B, in_blocks(128), 8, True, EXPERTS_1536),
        (
            QWEN3_235B | {"moe_intermediate_size": 768 + 16},
            FP8,
            2,
            True,
            "blocks of 128 do not divide the experts' 784 / 2",
        ),
    ],
)
def test_groups_of_experts_are_refined_where_the_format_allows_it(
    config, quantization, gpus, has_fp8, error
):
    assert_split_error(config, quantization, gpus, has_fp8, error)


@pytest.mark.parametrize(
    ("config", "quantization", "gpus", "error"),
    [
        (QWEN3_235B | {"first_k_dense_replace": 1}, FP8, 4, None),
        (
            QWEN3_235B | {"first_k_dense_replace": 1, "intermediate_size": 10944},
            FP8,
            4,
            "blocks of 128 do not divide 10944 / 4",
        ),
        (GLM_4_5_AIR, AWQ, 4, "groups of 128 do not divide 10944 / 4"),
        (GLM_4_5_AIR, without("model.layers.0.", "lm_head"), 4, None),
        (GLM_4_5_AIR, in_groups(32) | {"ignore": [r"re:.*layers\.0\..*"]}, 4, None),
        (GLM_4_5_AIR, without("model.layers.01"), 2, GROUPS_10944),
        (GLM_4_5_AIR, without("model.layers.0.self_attn.q_proj"), 2, GROUPS_10944),
        (GLM_4_5_AIR, without("model.layers.0.mlp.gate"), 2, GROUPS_10944),
        (GLM_4_5_AIR, without("model.layers.0"), 2, None),
        (GLM_4_5_AIR, without("model.layers.0.mlp"), 2, None),
        (GLM_4_5_AIR, without("model.layers.0.mlp.down_proj"), 2, None),
        (
            SHARED_EXPERT,
            FP8 | {"modules_to_not_convert": ["model.layers.0.mlp.shared_expert_gate"]},
            8,
            "blocks of 128 do not divide 512 / 8",
        ),
        (MOONLIGHT, AWQ, 4, "groups of 128 do not divide 2816 / 4"),
        (MOONLIGHT, without("mlp.shared_experts"), 4, None),
    ],
)
def test_unquantized_layers_of_a_mixture_have_no_groups(config, quantization, gpus, error):
    assert_split_error(config, quantization, gpus, True, error)


def assert_split_error(config, quantization, gpus, has_fp8, error):
    config = config | {"quantization_config": quantization}
    groups = parse_quantization_groups(config)
    model = parse_architecture(config)
    assert split_error(groups, model, gpus=gpus, has_fp8=has_fp8) == error
