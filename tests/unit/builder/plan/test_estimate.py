"""What fits on a number of GPUs, how fast it is and what it costs."""

from dataclasses import replace

import pytest

from builder.plan.architecture import parse_architecture
from builder.plan.estimate import Estimator, Workload
from builder.plan.quantization_groups import QuantizationGroups
from builder.plan.weights import WeightSizes
from handler.gpu_pools import GpuPool
from tests.support.model_configs import DEEPSEEK_V3, LLAMA_70B

POOL = GpuPool("P", ("large",), 100 * 1024, 1000, 100, 3.6, 1.8, True)
WEIGHTS = WeightSizes(40_000_000_000, 0, 0, "awq", True)
WORKLOAD = Workload(context_tokens=8192, request_tokens=2048)


def estimate(config=LLAMA_70B, weights=WEIGHTS, workload=WORKLOAD, pool=POOL, gpus=1):
    return Estimator(parse_architecture(config), weights, workload).estimate(pool, gpus)


def test_memory_requests_speed_and_price_follow_from_each_other():
    made = estimate()
    assert made.kv_cache_bytes == int(100 * 2**30 * 0.92) - made.weights_bytes - made.reserve_bytes
    held = made.kv_cache_bytes // (2048 * 327_680)
    assert (made.weights_bytes, made.max_sequences) == (40_000_000_000, held // 8 * 8)
    step_bytes = 40e9 + made.max_sequences * 2048 * 327_680
    assert made.tokens_per_second == made.max_sequences * 1e12 / step_bytes
    assert made.tokens_per_second_per_request == 1e12 / (40e9 + 2048 * 327_680)
    assert made.dollars_per_million_tokens == 0.001 / made.tokens_per_second * 1e6
    assert (made.can_split, made.obstacle) == (True, None)


@pytest.mark.parametrize(
    ("config", "workload", "gpus", "obstacle"),
    [
        (
            LLAMA_70B | {"num_attention_heads": 28},
            WORKLOAD,
            8,
            "28 heads cannot be split over 8 GPUs",
        ),
        (
            LLAMA_70B | {"num_attention_heads": 24, "num_key_value_heads": 6},
            WORKLOAD,
            4,
            "24 heads and 6 KV heads cannot be split over 4 GPUs",
        ),
        (LLAMA_70B, Workload(200_000, 2048), 1, "no room for 200000 tokens"),
        (LLAMA_70B, Workload(8192, 8192, 100), 1, "room for 20 of 100 requests"),
    ],
    ids=["heads", "KV heads", "context", "requests"],
)
def test_what_the_engine_would_refuse_does_not_fit(config, workload, gpus, obstacle):
    assert estimate(config, workload=workload, gpus=gpus).obstacle == obstacle


def test_a_quantized_layer_that_cannot_be_split_does_not_fit():
    config = LLAMA_70B | {"intermediate_size": 29568}
    weights = replace(WEIGHTS, groups=QuantizationGroups(128))
    assert estimate(config, weights, gpus=1).obstacle is None
    two = estimate(config, weights, gpus=2)
    assert (two.can_split, two.obstacle) == (False, "groups of 128 do not divide 29568 / 2")


@pytest.mark.parametrize(
    "config",
    [DEEPSEEK_V3, LLAMA_70B | {"model_type": "gpt_oss"}, LLAMA_70B | {"model_type": "gemma3"}],
    ids=["MLA", "gpt_oss", "gemma3"],
)
def test_some_attention_needs_fp8_arithmetic_for_an_fp8_cache(config):
    workload = replace(WORKLOAD, kv_element_bytes=1)
    older = replace(POOL, has_fp8=False)
    assert estimate(config, workload=workload).obstacle is None
    assert (
        estimate(config, workload=workload, pool=older).obstacle
        == "no FP8: no FP8 KV cache with this attention"
    )


def test_ordinary_attention_takes_an_fp8_cache_without_fp8_arithmetic():
    workload = replace(WORKLOAD, kv_element_bytes=1)
    assert estimate(workload=workload, pool=replace(POOL, has_fp8=False)).obstacle is None


def test_more_gpus_hold_hardly_more_requests_of_an_mla_model():
    config = DEEPSEEK_V3 | {"max_position_embeddings": 163840}
    workload = Workload(context_tokens=8192, request_tokens=8192)
    one, two = (estimate(config, workload=workload, gpus=gpus) for gpus in (1, 2))
    request_bytes = 8192 * 61 * 576 * 2
    assert [one.max_sequences, two.max_sequences] == [
        each.kv_cache_bytes // request_bytes // 8 * 8 for each in (one, two)
    ]
