"""The memory arithmetic of `builder plan` against vLLM's own functions."""

import inspect
from dataclasses import replace
from math import prod
from types import SimpleNamespace

import pytest

from builder.plan.architecture import parse_architecture
from builder.plan.kv_cache import recurrent_state_bytes
from builder.plan.quantization_groups import parse_quantization_groups, split_error
from handler.engine.failed_start.out_of_memory import GIB, Shortage, is_out_of_memory, shortage_of
from handler.engine.failed_start.report import KV_CACHE
from handler.engine.failed_start.second_start import SecondStart
from handler.engine.interface import AUTO, LoweredSetting
from handler.engine.vllm.configuration import SETTINGS
from tests.support.environment import MODELS, NAME
from tests.support.failed_starts import failure_of
from tests.support.model_configs import (
    FP8_BLOCKS,
    QWEN3_235B,
    QWEN3_NEXT,
    QWEN_72B,
    compressed_tensors_groups,
)
from tests.support.vllm_adapter import checked_vllm_adapter

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported

MAMBA_2 = {
    "mamba_n_heads": 128,
    "mamba_d_head": 64,
    "mamba_n_groups": 8,
    "mamba_d_state": 128,
    "mamba_d_conv": 4,
}
JAMBA = {"hidden_size": 4096, "mamba_expand": 2, "mamba_d_state": 16, "mamba_d_conv": 4}
KIMI = {"num_heads": 32, "head_dim": 128, "short_conv_kernel_size": 4}
MINIMAX = {
    "attn_type_list": [0],
    "num_attention_heads": 64,
    "head_dim": 128,
    "hidden_size": 6144,
}
# A config, the function of vLLM's calculator with its arguments for the same model, and the size of
# an element in each of the shapes that it returns.
STATES = {
    "Mamba 2": (MAMBA_2, "mamba2_state_shape", (1, 8192, 8, 128, 64, 128, 4), (2, 2)),
    "Mamba 1": (JAMBA, "mamba1_state_shape", (1, 8192, 16, 4), (2, 2)),
    "gated delta net": (
        QWEN3_NEXT,
        "gated_delta_net_state_shape",
        (1, 16, 32, 128, 128, 4),
        (2, 4),
    ),
    "Kimi delta attention": (
        {"linear_attn_config": KIMI},
        "kda_state_shape",
        (1, 32, 128),
        (2, 4),
    ),
    "Kimi delta attention, as transformers writes it": (
        {"linear_num_heads": 32, "linear_head_dim": 128, "head_dim": 64},
        "kda_state_shape",
        (1, 32, 128),
        (2, 4),
    ),
    "lightning attention": (MINIMAX, "linear_attention_state_shape", (64, 1, 128), (2,)),
    "lightning attention, as transformers writes it": (
        {"model_type": "minimax", "num_attention_heads": 64, "head_dim": 128, "hidden_size": 8192},
        "linear_attention_state_shape",
        (64, 1, 128),
        (2,),
    ),
    "convolution": (
        {"conv_L_cache": 3, "hidden_size": 2048},
        "short_conv_state_shape",
        (1, 2048, 3),
        (2,),
    ),
}


@pytest.mark.parametrize(
    ("config", "function", "arguments", "element_bytes"), STATES.values(), ids=STATES
)
def test_a_recurrent_state_is_as_large_as_vllm_says(config, function, arguments, element_bytes):
    from vllm.model_executor.layers.mamba.mamba_utils import MambaStateShapeCalculator

    shapes = getattr(MambaStateShapeCalculator, function)(*arguments)
    expected = sum(prod(shape) * size for shape, size in zip(shapes, element_bytes, strict=True))
    assert recurrent_state_bytes(config) == expected


@pytest.mark.parametrize("gpus", [2, 4, 8])
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("width", [29568, 27392, 28672, 11008, 13824])
def test_vllm_refuses_the_same_groups(width, size, gpus):
    from vllm.distributed.utils import verify_group_size_divides_partition

    quantization = {"quantization_config": compressed_tensors_groups(size)}
    error = split_error_of(QWEN_72B | {"intermediate_size": width} | quantization, gpus, True)
    try:
        verify_group_size_divides_partition(width // gpus, size)
    except ValueError:
        assert error is not None
    else:
        assert error is None


@pytest.mark.parametrize(("gpus", "width"), [(8, 1536), (8, 2560), (4, 1536), (2, 784)])
def test_vllm_refines_the_same_blocks_for_gpus_with_fp8(gpus, width):
    from vllm.model_executor.layers.fused_moe.oracle.fp8 import refine_fp8_moe_block_shape

    layer = SimpleNamespace(
        intermediate_size_per_partition=width // gpus, tp_size=gpus, hidden_dim=4096
    )
    config = QWEN3_235B | {"moe_intermediate_size": width, "quantization_config": FP8_BLOCKS}
    is_cut = width // gpus % 128 != 0
    assert (split_error_of(config, gpus, False) is not None) == is_cut
    is_refined = refine_fp8_moe_block_shape(layer, [128, 128]) is not None
    assert (is_cut and split_error_of(config, gpus, True) is None) == is_refined


def split_error_of(config, gpus, has_fp8):
    groups = parse_quantization_groups(config)
    return split_error(groups, parse_architecture(config), gpus=gpus, has_fp8=has_fp8)


# ---- what the second start reads of vLLM


def cache_failure(available, needed=16 * GIB, length=131072, fits=74560):
    """Return the failure that vLLM's own check of the KV cache raises."""
    from vllm.v1.core.kv_cache_utils import _check_enough_kv_cache_memory

    with pytest.raises(ValueError, match="memory") as caught:
        _check_enough_kv_cache_memory(available, lambda: needed, length, lambda _: fits)
    return failure_of(caught.value)


def test_its_text_of_a_small_kv_cache_is_understood():
    failure = cache_failure(9 * GIB)
    assert is_out_of_memory(failure)
    assert shortage_of(failure, None) == Shortage(7 * GIB, KV_CACHE, 9 * GIB, 74560)
    without = cache_failure(9 * GIB, fits=0)
    assert shortage_of(without, None) == Shortage(7 * GIB, KV_CACHE, 9 * GIB, None)


def test_its_text_of_no_kv_cache_is_understood():
    failure = replace(cache_failure(-5), figures={"available_bytes": -5})
    start = SimpleNamespace(model_tokens=2, kv_token_bytes=10)
    assert is_out_of_memory(failure)
    assert shortage_of(failure, start) == Shortage(25, KV_CACHE, -5)


def test_its_other_texts_are_in_its_sources():
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.worker import gpu_worker

    assert "Cannot auto-fit max_model_len" in inspect.getsource(kv_cache_utils)
    measured = inspect.getsource(gpu_worker.Worker.determine_available_memory)
    assert "self.cudagraph_memory_estimate = " in measured
    # What ends the core leaves its process, where it is reported.
    assert "raise e" in inspect.getsource(EngineCoreProc.run_engine_core)


@pytest.mark.parametrize(
    ("environ", "fixed"),
    [
        ({}, set()),
        ({"MAX_NUM_BATCHED_TOKENS": "4096"}, {"batched_tokens"}),
        ({"ENGINE_ARGS": "--no-enable-chunked-prefill"}, {"batched_tokens"}),
        ({"MAX_NUM_SEQS": "32"}, {"sequences"}),
        ({"ENGINE_ARGS": "--max-model-len 1k"}, {"model_tokens"}),
        ({"MAX_CUDAGRAPH_CAPTURE_SIZE": "8"}, {"graphs"}),
        ({"ENGINE_ARGS": "--cudagraph-capture-sizes 1 2"}, {"graphs"}),
        ({"COMPILATION_CONFIG": '{"cudagraph_mode": "PIECEWISE"}'}, {"graphs"}),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_what_the_user_has_set_is_fixed(environ, fixed):
    adapter = checked_vllm_adapter(MODELS / f"{NAME}-bf16", **environ)
    assert adapter.configuration().fixed == fixed


def test_a_configuration_is_what_vllm_derives():
    first = derived()
    assert (first.model_tokens, first.kv_token_bytes, first.has_own_cache) == (8192, 23040, True)
    assert (first.token_bytes, first.sequence_bytes) == (16128, 8 * 49152)
    assert first.min_batched_tokens == first.sequences > 64


def test_the_second_start_has_what_is_lowered():
    """Each value is that of a variable, as the user would set it."""
    lowered = (
        LoweredSetting("MAX_NUM_BATCHED_TOKENS", 2048, 512),
        LoweredSetting("ENFORCE_EAGER", 0, 1),
        LoweredSetting("MAX_NUM_SEQS", 256, 64),
        LoweredSetting("MAX_MODEL_LEN", 8192, AUTO),
    )
    assert set(SETTINGS.values()) - {each.name for each in lowered} == {
        "MAX_CUDAGRAPH_CAPTURE_SIZE"
    }
    second = derived(**SecondStart(0.0, lowered).environment())
    assert (second.batched_tokens, second.graph_sizes, second.sequences) == (512, (), 64)
    assert second.fixed == {"batched_tokens", "sequences"}  # the length is what fits


def derived(**environ):
    return checked_vllm_adapter(
        MODELS / f"{NAME}-bf16", KV_CACHE_MEMORY_BYTES="1000000", **environ
    ).configuration()
