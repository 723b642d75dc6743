"""What the worker reads from vLLM's configuration."""

from types import SimpleNamespace

import pytest

from handler.engine.capacity import Capacity
from handler.engine.vllm.adapter import _capacity, output_limit_warning


@pytest.mark.parametrize(
    ("parallel", "cache_tokens", "capacity"),
    [
        ((1, 1, False), 1000, Capacity(8, 1000, 512)),
        ((4, 4, False), 1000, Capacity(32, 4000, 512)),
        ((4, 2, True), 1000, Capacity(16, 2000, 512)),
        ((1, 1, False), None, Capacity(8, 4096, 512)),
    ],
    ids=["one core", "replicas", "replicas of this machine", "no KV cache"],
)
def test_the_capacity_is_that_of_all_engine_cores(parallel, cache_tokens, capacity):
    """vLLM has it per core; without a KV cache only the batch is a limit."""
    size, local, local_only = parallel
    config = SimpleNamespace(
        cache_config=SimpleNamespace(kv_cache_size_tokens=cache_tokens),
        scheduler_config=SimpleNamespace(max_num_seqs=8),
        model_config=SimpleNamespace(max_model_len=512),
        parallel_config=SimpleNamespace(
            data_parallel_size=size,
            data_parallel_size_local=local,
            local_engines_only=local_only,
        ),
    )
    assert _capacity(config) == capacity


@pytest.mark.parametrize(
    ("source", "override", "limit", "line"),
    [
        ("auto", {}, None, None),
        (
            "auto",
            {},
            512,
            "the model's generation_config.json limits responses to requests without max_tokens to "
            "512 tokens: GENERATION_CONFIG=vllm ignores it",
        ),
        ("/g", {}, 64, "GENERATION_CONFIG=/g limits all responses to 64 tokens"),
        (
            "vllm",
            {"max_new_tokens": 8},
            8,
            "OVERRIDE_GENERATION_CONFIG limits all responses to 8 tokens",
        ),
    ],
    ids=["none", "default", "folder", "override"],
)
def test_a_limit_of_the_generation_config_is_logged(source, override, limit, line):
    """vLLM takes the model's own as a default, and one that the user gives as a limit."""
    config = SimpleNamespace(
        generation_config=source,
        override_generation_config=override,
        get_diff_sampling_param=lambda: {} if limit is None else {"max_tokens": limit},
    )
    assert output_limit_warning(config) == line
