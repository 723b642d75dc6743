"""What is refused before an engine loads weights."""

from types import SimpleNamespace

import pytest

from handler.engine.preflight import (
    MemoryDemand,
    check_load_format,
    check_memory,
    enable_lora,
)
from handler.errors import EngineStartFailed, InvalidSetting
from handler.startup.gpus import Gpu
from tests.support.header_checkpoints import header_checkpoint
from tests.support.model_configs import DEEPSEEK_V3


def gpu(memory_mib, number=0, name="NVIDIA H100"):
    memory_bytes = None if memory_mib is None else memory_mib << 20
    return Gpu(name, (9, 0), memory_bytes, f"GPU-{number}")


H100 = [gpu(81559)]


def demand(folder, **fields):
    defaults = {
        "model_name": "org/m",
        "gpus": 1,
        "tensor_parallel_size": 1,
        "kv_cache_parts": 1,
        "memory_fraction": 0.9,
        "memory_setting": "GPU_MEMORY_UTILIZATION",
    }
    return MemoryDemand(folder=folder, **defaults | fields)


@pytest.mark.parametrize(
    ("args", "rank", "fitted", "messages"),
    [
        ((False, 16), 0, (False, 16), []),
        ((True, 64), 64, (True, 64), []),
        ((True, None), 64, (True, None), []),
        (
            (True, 16),
            64,
            (True, 64),
            ["MAX_LORA_RANK=16 has no effect: the adapters need 64"],
        ),
        (
            (False, 128),
            64,
            (True, 128),
            ["ENABLE_LORA=false has no effect: there are adapters (LORA_MODULES)"],
        ),
    ],
    ids=["no adapters", "fits", "open", "rank", "off"],
)
def test_adapters_are_served_beside_a_forms_defaults(caplog, args, rank, fitted, messages):
    """A form sends 16 and false where nobody chose them."""
    enabled, max_rank = args
    parsed = SimpleNamespace(enable_lora=enabled, max_lora_rank=max_rank)
    enable_lora(parsed, rank)
    assert (parsed.enable_lora, parsed.max_lora_rank) == fitted
    assert [record.message for record in caplog.records] == messages


def test_a_load_format_whose_package_is_missing_is_refused():
    with pytest.raises(InvalidSetting) as raised:
        check_load_format("tensorizer")
    assert str(raised.value) == (
        "LOAD_FORMAT='tensorizer' needs the package tensorizer, which is not installed here: add "
        "it to the image, or leave LOAD_FORMAT out."
    )
    check_load_format("auto")


def test_the_smallest_gpu_counts(tmp_path):
    folder = header_checkpoint(tmp_path, 60_000_000_000)
    with pytest.raises(EngineStartFailed, match=r"may use 23\.2 of 25\.8 GB per NVIDIA L4 \("):
        check_memory(demand(folder), [*H100, gpu(24564, 1, "NVIDIA L4")])


@pytest.mark.parametrize("gpus", [[], [gpu(None)], [gpu(16), gpu(None, 1)]], ids=len)
def test_nothing_is_refused_where_the_memory_is_unknown(tmp_path, gpus):
    """No GPU, or one that shares the machine's memory."""
    check_memory(demand(header_checkpoint(tmp_path, 141_000_000_000)), gpus)


def test_weights_that_cannot_fit_are_refused_with_the_sizes_and_what_to_change(tmp_path):
    folder = header_checkpoint(tmp_path, 141_000_000_000)
    with pytest.raises(EngineStartFailed) as raised:
        check_memory(demand(folder), H100)
    assert str(raised.value) == (
        "org/m has 141.0 GB of weights, 141.0 GB per GPU; the engine may use 77.0 of 85.5 GB per "
        "NVIDIA H100 (GPU_MEMORY_UTILIZATION=0.9): 64.0 GB are missing; use 4 such GPUs "
        "(TENSOR_PARALLEL_SIZE=4), a larger GPU, or a checkpoint with fewer bits (AWQ, FP8)."
    )
    check_memory(demand(folder, gpus=4), H100 * 4)


@pytest.mark.parametrize(
    ("weights_gb", "dtype", "name"),
    [(78, "BF16", "w"), (150, "F32", "w"), (82, "BF16", "model.visual.w")],
    ids=["nearly all", "32 bits are loaded as 16", "a vision model may be left out"],
)
def test_weights_that_may_fit_are_left_to_the_engine(tmp_path, weights_gb, dtype, name):
    check_memory(
        demand(header_checkpoint(tmp_path, weights_gb * 10**9, dtype=dtype, name=name)), H100
    )


@pytest.mark.parametrize(("weights_gb", "dtype"), [(82, "BF16"), (170, "F32")])
def test_weights_that_certainly_do_not_fit_are_refused(tmp_path, weights_gb, dtype):
    folder = header_checkpoint(tmp_path, weights_gb * 10**9, dtype=dtype)
    with pytest.raises(EngineStartFailed):
        check_memory(demand(folder), H100)


def test_a_number_of_gpus_is_suggested_only_if_the_heads_split_over_it(tmp_path):
    """10 KV heads split over 2 GPUs, not over 4 or 8."""
    gpus = [gpu(16376)]
    heads = {"num_attention_heads": 40, "num_key_value_heads": 10}
    folder = header_checkpoint(tmp_path, 20_000_000_000, **heads)
    with pytest.raises(EngineStartFailed) as raised:
        check_memory(demand(folder, memory_fraction=1.0, memory_setting=""), gpus)
    assert str(raised.value) == (
        "org/m has 20.0 GB of weights, 20.0 GB per GPU; the engine may use 17.2 of 17.2 GB per "
        "NVIDIA H100: 2.8 GB are missing; use 2 such GPUs (TENSOR_PARALLEL_SIZE=2), a larger GPU, "
        "or a checkpoint with fewer bits (AWQ, FP8)."
    )
    folder = header_checkpoint(tmp_path, 60_000_000_000, **heads)
    with pytest.raises(EngineStartFailed, match=r"missing; use a larger GPU, or a checkpoint"):
        check_memory(demand(folder, memory_fraction=1.0, memory_setting=""), gpus)


def test_the_models_own_context_is_not_refused_if_a_shorter_one_fits(tmp_path):
    folder = header_checkpoint(tmp_path, 70_000_000_000)
    assert check_memory(demand(folder, context_tokens=0), H100) == 14592
    folder = header_checkpoint(tmp_path, 74_800_000_000)
    with pytest.raises(EngineStartFailed, match=r"missing; use a larger GPU or more"):
        check_memory(demand(folder, context_tokens=0), H100)


def test_a_context_that_cannot_fit_is_refused_with_the_longest_that_does(tmp_path):
    folder = header_checkpoint(tmp_path, 70_000_000_000)
    with pytest.raises(EngineStartFailed) as raised:
        check_memory(demand(folder, context_tokens=131072), H100)
    assert str(raised.value).endswith(
        "H100 (GPU_MEMORY_UTILIZATION=0.9), and one request of 131072 tokens needs 42.9 GB of KV "
        "cache: 36.0 GB are missing; set MAX_MODEL_LEN to at most 14592, or use a larger GPU or "
        "more GPUs (TENSOR_PARALLEL_SIZE)."
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"context_tokens": 14592},
        {"context_tokens": 29184, "kv_element_bytes": 1},
        {"context_tokens": None},
    ],
    ids=["short enough", "an 8-bit cache", "no room is required"],
)
def test_a_context_that_may_fit_is_left_to_the_engine(tmp_path, fields):
    check_memory(demand(header_checkpoint(tmp_path, 70_000_000_000), **fields), H100)


def test_pipeline_stages_share_the_kv_cache(tmp_path):
    folder = header_checkpoint(tmp_path, 10_000_000_000)
    tokens = 400_000  # 131 GB
    check_memory(demand(folder, gpus=2, kv_cache_parts=2, context_tokens=tokens), H100)
    check_memory(demand(folder, gpus=2, tensor_parallel_size=2, context_tokens=tokens), H100)
    with pytest.raises(EngineStartFailed, match=r"needs 131\.1 GB of KV cache"):
        check_memory(demand(folder, gpus=2, context_tokens=tokens), H100)


@pytest.mark.parametrize(
    "config",
    [DEEPSEEK_V3, {"num_key_value_heads": None}, {"layer_types": ["a_new_one"] * 80}],
    ids=["MLA", "KV heads not given", "unknown layers"],
)
def test_the_context_of_a_model_that_is_not_plain_is_left_to_the_engine(tmp_path, config):
    folder = header_checkpoint(tmp_path, 70_000_000_000, **config)
    check_memory(demand(folder, context_tokens=1_500_000), H100)


@pytest.mark.parametrize("fraction", [90.0, -0.9, float("nan")], ids=str)
def test_a_share_of_the_memory_that_is_none_is_refused(tmp_path, fraction):
    """Such as a percentage: SGLang would find out after the weights."""
    with pytest.raises(InvalidSetting) as caught:
        check_memory(demand(tmp_path, memory_fraction=fraction), H100)
    assert str(caught.value) == (
        f"GPU_MEMORY_UTILIZATION={fraction:g} must be above 0 and at most 1, such as 0.9."
    )
