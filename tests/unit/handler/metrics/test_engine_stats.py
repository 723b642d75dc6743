"""What an engine's exposition says: real ones under load, and what happened between two."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from handler.metrics.engine_stats import EngineStats, StatsWindow, parse_stats, window_between

ROOT = Path(__file__).parents[4]
EXPOSITIONS = ROOT / "tests/support/expositions"


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        (
            "vllm",
            EngineStats(
                running=2,
                waiting=2,
                kv_cache_usage=0.0055096418732781816,
                preemptions_total=0,
                prefix_queries_total=570,
                prefix_hits_total=256,
                generation_tokens_total=288,
            ),
        ),
        (
            "vllm-ngram",
            EngineStats(
                running=0,
                waiting=0,
                kv_cache_usage=0,
                preemptions_total=0,
                prefix_queries_total=592,
                prefix_hits_total=256,
                generation_tokens_total=918,
                spec_drafts_total=198,
                spec_draft_tokens_total=722,
                spec_accepted_tokens_total=696,
            ),
        ),
        (
            "sglang",
            EngineStats(
                running=2,
                waiting=2,
                kv_cache_usage=0.01,
                preemptions_total=0,
                prefix_queries_total=570,
                prefix_hits_total=287,
                generation_tokens_total=226,
            ),
        ),
    ],
    ids=["vllm", "vllm with n-grams", "sglang"],
)
def test_what_an_engine_says(name, reading):
    """Both engines had the same jobs, two at once."""
    assert parse_stats((EXPOSITIONS / f"{name}.txt").read_text()) == reading


def test_no_engine_says_nothing():
    """Its process may have gone, and the worker's metrics are there still."""
    assert parse_stats('llm_worker_start_seconds{stage="weights"} 2.1\n') == EngineStats()
    assert parse_stats("") == EngineStats()


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        (
            'vllm:num_requests_running{engine="0"} 3.0\n'
            'vllm:num_requests_running{engine="1"} 4.0\n'
            'vllm:kv_cache_usage_perc{engine="0"} 0.25\n'
            'vllm:kv_cache_usage_perc{engine="1"} 0.75\n',
            {"running": 7, "kv_cache_usage": 0.75},
        ),
        (
            'sglang:num_running_reqs{pp_rank="0",tp_rank="0"} 3.0\n'
            'sglang:num_running_reqs{pp_rank="1",tp_rank="0"} 3.0\n'
            'sglang:num_running_reqs{pp_rank="0",tp_rank="1"} 3.0\n',
            {"running": 3},
        ),
        (
            'sglang:num_running_reqs{dp_rank="0",tp_rank="0"} 3.0\n'
            'sglang:num_running_reqs{dp_rank="1",tp_rank="1"} 4.0\n',
            {"running": 7},
        ),
        (
            'sglang:num_queue_reqs{priority="",tp_rank="0"} 5.0\n'
            'sglang:num_queue_reqs{priority="0",tp_rank="0"} 3.0\n'
            'sglang:num_queue_reqs{priority="9",tp_rank="0"} 2.0\n',
            {"waiting": 5},
        ),
        (
            'sglang:realtime_tokens_total{mode="decode",is_streaming="true"} 5.0\n'
            'sglang:realtime_tokens_total{mode="decode",is_streaming="false"} 2.0\n'
            'sglang:num_retracted_requests_total{tp_rank="0"} 1.0\n',
            {"generation_tokens_total": 7, "preemptions_total": 1},
        ),
    ],
    ids=["engines", "ranks", "replicas", "priorities", "kinds of requests"],
)
def test_several_series_of_one_name(text, figures):
    """Engines are summed, their ranks are not; of usage it is the fullest."""
    reading = parse_stats(text)
    assert {name: getattr(reading, name) for name in figures} == figures


def test_sglangs_accepted_length_has_the_token_in_it_that_a_step_gives_anyway():
    """What is read has not."""
    reading = parse_stats(
        'sglang:spec_accept_length{tp_rank="0"} 2.75\nsglang:spec_accept_rate{tp_rank="0"} 0.4375\n'
    )
    assert (reading.spec_accepted_per_step, reading.spec_acceptance) == (1.75, 0.4375)


def test_the_module_leaves_prometheus_client_alone():
    """SGLang has not yet said by then that several processes share it."""
    code = "import sys, handler.metrics.bottleneck; print('prometheus_client' in sys.modules)"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


VLLM = EngineStats(
    running=1,
    waiting=0,
    kv_cache_usage=0.5,
    preemptions_total=3,
    prefix_queries_total=1000,
    prefix_hits_total=500,
    generation_tokens_total=200,
    spec_drafts_total=100,
    spec_draft_tokens_total=400,
    spec_accepted_tokens_total=300,
)
LATER = replace(
    VLLM,
    preemptions_total=5,
    prefix_queries_total=1400,
    prefix_hits_total=600,
    generation_tokens_total=300,
    spec_drafts_total=150,
    spec_draft_tokens_total=600,
    spec_accepted_tokens_total=375,
)
SGLANG = EngineStats(
    preemptions_total=0,
    prefix_queries_total=0,
    prefix_hits_total=0,
    generation_tokens_total=0,
    spec_accepted_per_step=1.75,
    spec_acceptance=0.4375,
)


@pytest.mark.parametrize(
    ("before", "after", "happened"),
    [
        (VLLM, LATER, StatsWindow(0.25, 1.5, 0.375, 2)),
        (EngineStats(), VLLM, StatsWindow(0.5, 3.0, 0.75, 3)),
        (VLLM, VLLM, StatsWindow(None, None, None, 0)),
        (
            VLLM,
            replace(LATER, spec_drafts_total=100, spec_accepted_tokens_total=300),
            StatsWindow(0.25, None, 0.0, 2),
        ),
        (LATER, VLLM, StatsWindow(0.5, 3.0, 0.75, 3)),
        (
            VLLM,
            replace(
                LATER, prefix_queries_total=900, prefix_hits_total=450, generation_tokens_total=900
            ),
            StatsWindow(0.5, 2.5, 0.625, 5),
        ),
        (SGLANG, SGLANG, StatsWindow(None, None, None, 0)),
        (
            SGLANG,
            replace(SGLANG, generation_tokens_total=50),
            StatsWindow(None, 1.75, 0.4375, 0),
        ),
        (VLLM, EngineStats(), StatsWindow()),
        (EngineStats(), EngineStats(), StatsWindow()),
    ],
    ids=[
        "work",
        "the first reading",
        "nothing",
        "no drafts",
        "restart",
        "restart that shows in one counter",
        "an old gauge",
        "gauges",
        "gone",
        "no engine",
    ],
)
def test_what_happened_between_two_readings(before, after, happened):
    """After a restart the engine's counters begin at 0."""
    assert window_between(before, after) == happened
