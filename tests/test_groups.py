"""Quantized weights that share a scale are not split over GPUs, and the engine agrees.

Configurations are the published ones, cut to the fields that matter.
"""

from types import SimpleNamespace

import pytest
from handler.memory.architecture import architecture
from handler.memory.groups import groups, obstacle

from tests.test_memory import DEEPSEEK_V3, LLAMA_70B

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported

QWEN_72B = {
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
MIXTURE = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_experts": 128,
    "num_hidden_layers": 94,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
AWQ = {"quant_method": "awq", "group_size": 128}


def in_groups(size, **more):
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": size, **more}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": weights}},
    }


def in_blocks(side):
    return in_groups(None, strategy="block", block_structure=[side, side], type="float", num_bits=8)


NARROW = QWEN_72B | {"intermediate_size": 28672, "head_dim": 64}
GLM_AIR = {"intermediate_size": 10944, "moe_intermediate_size": 1408, "first_k_dense_replace": 1}
EXCEPT = {"modules_to_not_convert": ["model.layers.0.", "lm_head"]}
CUT_10944 = "groups of 128 do not divide 10944 / 2"
QWEN_NEXT = MIXTURE | {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512}
MOONLIGHT = {"moe_intermediate_size": 1408, "n_shared_experts": 2}


@pytest.mark.parametrize(
    ("config", "quantization", "gpus", "has_fp8", "said"),
    [
        (QWEN_72B, in_groups(128), 1, False, None),
        (QWEN_72B, in_groups(128), 2, True, "groups of 128 do not divide 29568 / 2"),
        (QWEN_72B, AWQ, 2, True, "groups of 128 do not divide 29568 / 2"),
        (QWEN_72B, in_groups(32), 4, False, None),
        (QWEN_72B, in_groups(32), 8, False, "groups of 32 do not divide 29568 / 8"),
        (QWEN_72B, {"quant_method": "fp8"}, 8, False, None),
        (QWEN_72B, in_groups(None, strategy="channel", num_bits=8, type="float"), 8, True, None),
        (LLAMA_70B, in_groups(128), 8, False, None),
        (MIXTURE, FP8, 4, False, None),
        (MIXTURE, FP8, 8, True, None),
        (
            *(MIXTURE, FP8, 8, False),
            "no FP8, and blocks of 128 do not divide the experts' 1536 / 8",
        ),
        (MIXTURE, in_groups(128), 8, True, "groups of 128 do not divide the experts' 1536 / 8"),
        (MIXTURE, AWQ, 8, False, None),
        (
            MIXTURE | {"moe_intermediate_size": 768 + 16},
            *(FP8, 2, True, "blocks of 128 do not divide the experts' 784 / 2"),
        ),
        (MIXTURE | {"first_k_dense_replace": 1}, FP8, 4, True, None),
        (
            MIXTURE | {"first_k_dense_replace": 1, "intermediate_size": 10944},
            *(FP8, 4, True, "blocks of 128 do not divide 10944 / 4"),
        ),
        (NARROW, FP8, 8, True, None),
        (NARROW, in_blocks(128), 4, True, None),
        (
            *(NARROW, in_blocks(128), 8, True),
            "blocks of 128 do not divide the 64 keys of each GPU",
        ),
        (
            *(MIXTURE, in_blocks(128), 8, True),
            "blocks of 128 do not divide the experts' 1536 / 8",
        ),
        (MIXTURE | GLM_AIR, AWQ, 4, True, "groups of 128 do not divide 10944 / 4"),
        (MIXTURE | GLM_AIR, AWQ | EXCEPT, 4, True, None),
        (MIXTURE | GLM_AIR, in_groups(32) | {"ignore": [r"re:.*layers\.0\..*"]}, 4, True, None),
        *(
            (MIXTURE | GLM_AIR, AWQ | {"modules_to_not_convert": [f"model.{name}"]}, 2, True, said)
            for name, said in {
                "layers.01": CUT_10944,
                "layers.0.self_attn.q_proj": CUT_10944,
                "layers.0.mlp.gate": CUT_10944,
                "layers.0": None,
                "layers.0.mlp": None,
                "layers.0.mlp.down_proj": None,
            }.items()
        ),
        (
            *(
                QWEN_NEXT,
                FP8 | {"modules_to_not_convert": ["model.layers.0.mlp.shared_expert_gate"]},
            ),
            *(8, True, "blocks of 128 do not divide 512 / 8"),
        ),
        (MIXTURE | MOONLIGHT, AWQ, 4, True, "groups of 128 do not divide 2816 / 4"),
        (
            *(MIXTURE | MOONLIGHT, AWQ | {"modules_to_not_convert": ["mlp.shared_experts"]}),
            *(4, True, None),
        ),
        (QWEN_72B, {"quant_method": "fp8", "weight_block_size": [0, 0]}, 2, True, None),
        (DEEPSEEK_V3 | {"v_head_dim": 128}, FP8, 8, False, None),
    ],
)
def test_what_shares_a_scale_stays_on_one_gpu(config, quantization, gpus, has_fp8, said):
    """By the widths that published models have; experts are cut where an engine can."""
    config = config | {"quantization_config": quantization}
    assert obstacle(groups(config), architecture(config), gpus, has_fp8) == said


@pytest.mark.parametrize("gpus", [2, 4, 8])
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("width", [29568, 27392, 28672, 11008, 13824])
def test_the_engine_refuses_the_same_groups(width, size, gpus):
    """vLLM's own check of a layer whose inputs are split."""
    from vllm.distributed.utils import verify_group_size_divides_partition

    config = QWEN_72B | {"intermediate_size": width, "quantization_config": in_groups(size)}
    is_split = obstacle(groups(config), architecture(config), gpus, True) is None
    try:
        verify_group_size_divides_partition(width // gpus, size)
    except ValueError:
        assert not is_split
    else:
        assert is_split


def test_the_engine_cuts_the_same_blocks():
    """vLLM's own: into these for its Triton kernel, which calculates in FP8."""
    from vllm.model_executor.layers.fused_moe.oracle.fp8 import refine_fp8_moe_block_shape

    for gpus, width in ((8, 1536), (8, 2560), (4, 1536), (2, 784)):
        asked = SimpleNamespace(
            intermediate_size_per_partition=width // gpus, tp_size=gpus, hidden_dim=4096
        )
        config = MIXTURE | {"moe_intermediate_size": width, "quantization_config": FP8}
        model, shared = architecture(config), groups(config)
        is_cut = width // gpus % 128 != 0
        assert (obstacle(shared, model, gpus, False) is not None) == is_cut
        refined = refine_fp8_moe_block_shape(asked, [128, 128]) is not None
        assert (is_cut and obstacle(shared, model, gpus, True) is None) == refined
