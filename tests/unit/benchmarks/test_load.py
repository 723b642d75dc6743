"""The load generator, its figures, and what is read of a worker's start."""

import asyncio
import json
import os

import pytest

from benchmarks.load import (
    Response,
    chat_bodies,
    completion_body,
    measure,
    median_loads,
    p99,
    random_prompts,
)
from benchmarks.queue_worker import (
    Stage,
    Start,
    baseline_stages,
    median_start,
    metric_total,
    worker_stages,
)

STREAM = (
    'data: {"choices": []}\n\n'
    'data: {"usage": {"completion_tokens": 8, "prompt_tokens": 21, '
    '"prompt_tokens_details": {"cached_tokens": 16}}}\n\n'
    "data: [DONE]\n\n"
)


def test_the_token_counts_are_those_of_the_streams_usage():
    response = Response()
    response.count(STREAM)
    counted = (response.completion_tokens, response.prompt_tokens, response.cached_tokens)
    assert counted == (8, 21, 16)


def test_a_stream_without_its_end_is_an_error():
    with pytest.raises(RuntimeError, match="a stream has no end"):
        Response().count(STREAM.removesuffix("data: [DONE]\n\n"))


async def _answer(body):
    return Response([1.0, 2.0, 5.0], 8.0, messages=3, completion_tokens=8, prompt_tokens=2)


def test_the_figures_are_those_of_the_responses():
    figures = asyncio.run(measure(_answer, os.getpid(), 2, chat_bodies(5, 8)))
    names = ("ttft_p50_seconds", "ttft_p99_seconds", "itl_p50_seconds", "messages_per_request")
    assert [figures[name] for name in names] == [1.0, 1.0, 1.0, 3]
    assert figures["flush_gap_p99_seconds"] == 3.0
    assert figures["e2e_latency_p50_seconds"] == 8.0
    assert figures["output_tokens_per_second"] / figures["requests_per_second"] == pytest.approx(8)


def test_a_response_of_another_length_is_an_error():
    with pytest.raises(RuntimeError, match="a response has 8 tokens instead of 9"):
        asyncio.run(measure(_answer, os.getpid(), 1, [completion_body([1], 9)]))


def test_the_median_is_taken_of_each_figure_at_each_level():
    runs = [{1: {"a": a, "b": b}} for a, b in ((1, 9), (2, 7), (3, 8))]
    assert median_loads(runs) == {1: {"a": 2, "b": 8}}


@pytest.mark.parametrize(
    ("count", "slowest"), [(1, 1), (8, 8), (100, 99), (512, 507)], ids=["1", "8", "100", "512"]
)
def test_the_99th_percentile_is_a_value_that_was_measured(count, slowest):
    assert p99(range(1, count + 1)) == slowest


def test_a_random_prompt_is_the_same_for_the_same_number_and_has_no_special_token():
    first, second = random_prompts(7, 2, 50, 5)
    assert random_prompts(8, 1, 50, 5) == [second]
    assert first != second
    assert set(first + second) == {0, 1, 2}


METRICS = """\
# TYPE llm_worker_start_seconds gauge
llm_worker_start_seconds{stage="imports"} 4.0
llm_worker_start_seconds{stage="engine"} 6.5
# TYPE llm_worker_start_offset_seconds gauge
llm_worker_start_offset_seconds{stage="imports"} 0.5
llm_worker_start_offset_seconds{stage="engine"} 4.5
"""


def test_the_workers_stages_are_read_from_its_metrics():
    assert worker_stages(METRICS) == (Stage("imports", 0.5, 4.0), Stage("engine", 4.5, 6.5))
    assert worker_stages("") == ()


def test_a_metric_is_summed_over_its_labels():
    assert metric_total(METRICS, "llm_worker_start_seconds") == 10.5
    assert metric_total(METRICS, "vllm:not_there") == 0


def test_the_baselines_stages_are_read_from_its_log():
    times = json.dumps({"server_started_at": 101.5, "healthy_at": 120.0})
    assert baseline_stages(f"a line\n{times}\nanother\n", began_at=100.0) == (
        Stage("imports of the worker", 0.0, 1.5),
        Stage("server, until it is found healthy", 1.5, 18.5),
    )
    assert baseline_stages("a line\n", began_at=100.0) == ()


def test_the_median_start_is_a_measured_one_and_of_two_the_shorter():
    starts = [Start(seconds, ()) for seconds in (3.0, 1.0, 2.0)]
    assert median_start(starts) is starts[2]
    assert median_start(starts[:2]) is starts[1]
