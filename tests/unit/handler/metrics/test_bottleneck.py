"""What holds the engine back: each rule, and what the log says of it."""

import pytest

from handler.metrics.bottleneck import (
    BATCH_FULL,
    COMPUTE_BOUND,
    KINDS,
    SPECULATION_COSTS,
    Bottleneck,
    BottleneckLog,
    find_bottleneck,
    speculation_pays,
)
from handler.metrics.engine_stats import EngineStats, StatsWindow

PREEMPTED = (
    "The KV cache is too small for the batch; preempted requests are computed again: lower "
    "MAX_NUM_SEQS or MAX_MODEL_LEN, set KV_CACHE_DTYPE=fp8, or use a larger GPU."
)
CACHE_FULL = (
    "The KV cache is full while requests wait: lower MAX_NUM_SEQS or MAX_MODEL_LEN, set "
    "KV_CACHE_DTYPE=fp8, use a larger GPU, or add workers."
)
QUEUE = (
    "The batch is full while the KV cache has room: raise MAX_CONCURRENCY where it is set, else "
    "MAX_NUM_SEQS, or add workers."
)
COMPUTE = (
    "The GPU is the limit: use a faster GPU, a quantized model or, for few streams, "
    "SPECULATIVE_METHOD."
)
NOTHING = "No request runs or waits."


@pytest.mark.parametrize(
    ("running", "waiting", "usage", "preemptions", "kind", "advice"),
    [
        (4, 0, 0.95, 1, "kv_cache", PREEMPTED),
        (8, 3, 0.5, 2, "kv_cache", PREEMPTED),
        (4, 1, 0.9, 0, "kv_cache", CACHE_FULL),
        (8, 1, 0.9, 0, "kv_cache", CACHE_FULL),
        (0, 1, 1.0, 0, "kv_cache", CACHE_FULL),
        (8, 1, 0.89, 0, "queue", QUEUE),
        (8, 0, 0.5, 0, "queue", QUEUE),
        (8, 0, 0.95, 0, "queue", QUEUE),
        (9, 0, 0.5, 0, "queue", QUEUE),
        (7, 0, 0.95, 0, "compute", COMPUTE),
        (1, 0, 0.0, 0, "compute", COMPUTE),
        (7, 5, 0.5, 0, "compute", COMPUTE),
        (0, 1, 0.0, 0, "compute", COMPUTE),
        (0, 0, 0.0, 0, "idle", NOTHING),
        (0, 0, 0.95, 2, "idle", NOTHING),
        (4, 1, None, None, "compute", COMPUTE),
        (None, None, None, None, "idle", NOTHING),
    ],
    ids=[
        "preempted",
        "preempted, and the batch is full",
        "full cache",
        "full cache and full batch",
        "full cache before a batch",
        "full batch and a queue",
        "full batch",
        "full batch that just fits",
        "more than the worker's jobs",
        "nothing waits for the full cache",
        "one stream",
        "prefill is slow",
        "first prefill",
        "idle",
        "idle after a preemption",
        "no such figures",
        "no figures",
    ],
)
def test_the_verdict(running, waiting, usage, preemptions, kind, advice):
    """On an engine that runs eight at once."""
    reading = EngineStats(running=running, waiting=waiting, kv_cache_usage=usage)
    assert find_bottleneck(reading, StatsWindow(preemptions=preemptions), 8) == Bottleneck(
        kind, advice
    )


def test_the_kinds():
    """They are the gauge's labels."""
    assert KINDS == ("kv_cache", "compute", "queue", "idle")


@pytest.mark.parametrize(
    ("accepted", "pays"),
    [(None, None), (0.0, False), (0.49, False), (0.5, True), (3.0, True)],
    ids=["nothing drafted", "nothing accepted", "too few", "just enough", "many"],
)
def test_whether_speculation_pays(accepted, pays):
    """From half an accepted token a step on."""
    assert speculation_pays(StatsWindow(accepted_tokens_per_step=accepted)) is pays


def test_what_is_said_of_speculation_that_does_not_pay():
    """How to end it."""
    assert SPECULATION_COSTS == (
        "Drafting costs more than it saves, with under 0.5 accepted tokens a step: turn it off "
        "(SPECULATIVE_METHOD=none) or use another draft model."
    )


VERDICTS = {
    "idle": Bottleneck("idle", NOTHING),
    "queue": Bottleneck("queue", BATCH_FULL),
    "compute": Bottleneck("compute", COMPUTE_BOUND),
}
QUEUE_LINE = f"bottleneck queue: {QUEUE}"
COMPUTE_LINE = f"bottleneck compute: {COMPUTE}"


@pytest.mark.parametrize(
    ("seen", "logged"),
    [
        ([(0, "queue", None), (60, "queue", None)], [(0, QUEUE_LINE)]),
        ([(0, "idle", None), (5, "queue", None)], [(5, QUEUE_LINE)]),
        (
            [(0, "queue", None), (59, "compute", None), (60, "compute", None)],
            [(0, QUEUE_LINE), (60, COMPUTE_LINE)],
        ),
        (
            [(0, "queue", None), (30, "compute", None), (60, "queue", None)],
            [(0, QUEUE_LINE)],
        ),
        (
            [(0, "queue", None), (60, "idle", None), (120, "queue", None)],
            [(0, QUEUE_LINE)],
        ),
        (
            [(0, "compute", 0.1), (60, "compute", 0.1)],
            [(0, COMPUTE_LINE), (0, SPECULATION_COSTS)],
        ),
        (
            [(0, "compute", 2.0), (10, "compute", 0.1), (60, "compute", 0.1)],
            [(0, COMPUTE_LINE), (60, SPECULATION_COSTS)],
        ),
        (
            [(0, "idle", 0.1), (60, "compute", None), (120, "compute", 0.1)],
            [(0, SPECULATION_COSTS), (60, COMPUTE_LINE)],
        ),
        (
            [(0, "idle", 0.1), (60, "idle", 1.0), (120, "idle", 0.1)],
            [(0, SPECULATION_COSTS), (120, SPECULATION_COSTS)],
        ),
    ],
    ids=[
        "the same",
        "idle at first",
        "a change within the minute",
        "a change that is over",
        "the same after a pause",
        "both at once",
        "it pays no longer",
        "nothing drafted meanwhile",
        "it paid meanwhile",
    ],
)
def test_the_log_tells_changes_and_at_most_once_a_minute(seen, logged):
    """Idleness is none."""
    announcer = BottleneckLog()
    lines = [
        (seconds, line)
        for seconds, kind, accepted in seen
        for line in announcer.lines(
            VERDICTS[kind], StatsWindow(accepted_tokens_per_step=accepted), seconds
        )
    ]
    assert lines == logged
