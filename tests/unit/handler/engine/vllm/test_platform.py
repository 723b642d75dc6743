"""The environment that vLLM gets, by its settings and flags."""

from types import SimpleNamespace

import pytest

from handler.engine.vllm import platform


@pytest.mark.parametrize(
    ("args", "variables", "backend"),
    [
        ({}, {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, "uni"),
        ({"kv_cache_memory_bytes": 1 << 30}, {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, "uni"),
        (
            {"tensor_parallel_size": 2},
            {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
            None,
        ),
        ({"distributed_executor_backend": "mp"}, {"VLLM_CPU_KVCACHE_SPACE": "1"}, "mp"),
    ],
    ids=["one rank", "KV cache set", "two ranks", "backend set"],
)
def test_ranks_are_placed_on_a_cpu(args, variables, backend):
    defaults = {
        "kv_cache_memory_bytes": None,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "distributed_executor_backend": None,
    }
    parsed = SimpleNamespace(**defaults | args)
    assert platform.configure_cpu_ranks(parsed) == variables
    assert parsed.distributed_executor_backend == backend


@pytest.mark.parametrize(
    ("log_level", "added"),
    [("INFO", {}), ("warning", platform.QUIET_ENVIRONMENT)],
    ids=["loud", "quiet"],
)
def test_the_log_level_is_in_the_environment(log_level, added):
    made = platform.environment(log_level)
    expected = {**platform.ENVIRONMENT, "VLLM_LOGGING_LEVEL": log_level, **added}
    assert made == expected | (platform.CPU_ENVIRONMENT if platform.is_cpu() else {})
