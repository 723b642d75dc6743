"""What the worker reads from SGLang's flags and its schedulers' states."""

import asyncio
from types import SimpleNamespace

import pytest

from handler.engine.capacity import Capacity
from handler.engine.flags.parallelism import Parallelism
from handler.engine.sglang import adapter
from handler.engine.sglang.adapter import _capacity, _parallelism, _while_alive
from handler.errors import EngineStartFailed

ONE = {
    "tp_size": 1,
    "pp_size": 1,
    "dp_size": 1,
    "attn_dp_size": 1,
    "attn_cp_size": 1,
}


@pytest.mark.parametrize(
    ("args", "parallelism"),
    [
        ({}, Parallelism(1, 1, 1)),
        ({"tp_size": 4, "pp_size": 2, "dp_size": 2}, Parallelism(4, 16, 1)),
        ({"tp_size": 8, "attn_dp_size": 8}, Parallelism(8, 8, 8)),
        ({"tp_size": 8, "attn_dp_size": 4, "dp_size": 2}, Parallelism(8, 16, 4)),
        ({"tp_size": 8, "dp_size": 4, "enable_dp_attention": True}, Parallelism(8, 8, 4)),
        (
            {"tp_size": 8, "dp_size": 2, "attn_dp_size": 4, "enable_dp_attention": True},
            Parallelism(8, 16, 4),
        ),
        ({"tp_size": 8, "attn_dp_size": 2, "attn_cp_size": 2}, Parallelism(8, 8, 4)),
    ],
    ids=["one", "replicas", "attention", "both", "old", "old beside new", "context"],
)
def test_attention_groups_are_within_a_replica(args, parallelism):
    """DP_SIZE counts replicas, except where ENABLE_DP_ATTENTION is the only other setting."""
    assert _parallelism(SimpleNamespace(**ONE | args)) == parallelism


def test_the_capacity_is_that_of_all_schedulers():
    """Each data-parallel rank has a KV cache and a batch of its own."""

    async def states():
        return [{"effective_max_running_requests_per_dp": 64}] * 4

    manager = SimpleNamespace(get_internal_state=states, context_len=8192)
    assert asyncio.run(_capacity({"max_total_num_tokens": 16384}, manager)) == Capacity(
        max_sequences=256, kv_cache_tokens=65536, max_model_tokens=8192
    )


def test_a_scheduler_that_ends_before_it_answers_ends_the_start(monkeypatch):
    monkeypatch.setattr(adapter, "ALIVE_INTERVAL_SECONDS", 0.01)
    with pytest.raises(EngineStartFailed) as raised:
        asyncio.run(_while_alive(asyncio.sleep(3600), lambda: False))
    assert str(raised.value) == "A process of the engine ended during the start."


def test_an_answer_of_the_schedulers_is_waited_for(monkeypatch):
    monkeypatch.setattr(adapter, "ALIVE_INTERVAL_SECONDS", 0.01)
    assert asyncio.run(_while_alive(asyncio.sleep(0.05, "answer"), lambda: True)) == "answer"
