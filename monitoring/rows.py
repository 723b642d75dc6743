"""The dashboard's rows, and what each panel asks.

Of the engines it knows one figure each, the tokens as they are written; the rest are the worker's
own, the same on both. How a panel looks stands in panels.py, where it stands in dashboard.py.
"""

from monitoring.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Panel,
    bars,
    stat,
    state_timeline,
    timeseries,
)
from monitoring.queries import CHOSEN, quantiles, rate, series

OUTCOMES = {"taken": GREEN, "again": ORANGE, "lost": RED}
BOTTLENECKS = [("idle", GREY), ("compute", GREEN), ("queue", ORANGE), ("kv_cache", RED)]
QUANTILES = {"p50": GREEN, "p90": YELLOW, "p99": ORANGE}


def now() -> list[Panel]:
    """Return the numbers at the top."""
    failed = f'sum(rate(llm_worker_requests_total{{{CHOSEN},outcome=~"failed|timeout"}}[5m]))'
    over = f"sum(rate({series('llm_worker_requests_total')}[5m]))"
    first = f"sum by (le) (rate({series('llm_worker_time_to_first_token_seconds_bucket')}[5m]))"
    start = "llm_worker_start"
    return [
        stat(
            "Engines up",
            "Workers whose engine lives.",
            f"sum({series('llm_worker_engine_up')})",
            "none",
            limit=1,
            low_is_bad=True,
        ),
        stat(
            "Requests failed, 5 min",
            "Failed or timed out, of all that ended.",
            f"({failed} or vector(0)) / {over}",
            "percentunit",
            limit=0.01,
        ),
        stat(
            "First token p99, 5 min",
            "From a stream's arrival to the first of its output.",
            f"histogram_quantile(0.99, {first})",
            "s",
            limit=5,
        ),
        stat(
            "Streams",
            "That are open.",
            f"sum({series('llm_worker_streams_active')})",
            "none",
        ),
        stat(
            "KV cache, fullest",
            "The part of it that requests hold.",
            f"max({series('llm_worker_kv_cache_usage_ratio')})",
            "percentunit",
            limit=0.9,
        ),
        stat(
            "Cold start, longest",
            "From the process's start to the end of the last stage.",
            f"max({series(f'{start}_offset_seconds')} + {series(f'{start}_seconds')})",
            "s",
            limit=180,
        ),
    ]


def requests() -> list[Panel]:
    """Return what callers see."""
    return [
        timeseries(
            "Requests by route and outcome",
            "That ended. refused: the caller's error; failed: ours or the engine's; rejected: 429.",
            [(rate("llm_worker_requests_total", "route", "outcome"), "{{route}} {{outcome}}")],
            "reqps",
        ),
        timeseries(
            "Open requests",
            "Those that wait for a place in the engine included.",
            [
                (f"sum({series('llm_worker_requests_active')})", "requests"),
                (f"sum({series('llm_worker_streams_active')})", "streams"),
            ],
            "short",
        ),
        timeseries(
            "Queue wait",
            "From a request's arrival at the worker to the engine.",
            quantiles("llm_worker_queue_seconds", "p50", "p90", "p99"),
            "s",
            colours=QUANTILES,
        ),
        timeseries(
            "Time to first token",
            "From a stream's arrival to the first of its output.",
            quantiles("llm_worker_time_to_first_token_seconds", "p50", "p90", "p99"),
            "s",
            colours=QUANTILES,
        ),
        timeseries(
            "Time between tokens",
            "Of a stream, on its average.",
            quantiles("llm_worker_inter_token_seconds", "p50", "p99"),
            "s",
            colours=QUANTILES,
        ),
        timeseries(
            "End to end",
            "From a request's arrival to its end.",
            quantiles("llm_worker_request_seconds", "p50", "p90", "p99"),
            "s",
            colours=QUANTILES,
        ),
    ]


def tokens() -> list[Panel]:
    """Return the tokens, as they are counted and as they are written."""
    written = " or ".join(
        (
            rate("vllm:generation_tokens_total"),
            rate("sglang:realtime_tokens_total", mode="decode"),
        )
    )
    return [
        timeseries(
            "Tokens of requests that ended",
            "in: of prompts; cached: those of them that the KV cache had; out: of answers.",
            [
                (rate("llm_worker_tokens_total", kind="prompt"), "in"),
                (rate("llm_worker_tokens_total", kind="cached"), "cached"),
                (rate("llm_worker_tokens_total", kind="completion"), "out"),
            ],
            "short",
            colours={"in": BLUE, "cached": PURPLE, "out": GREEN},
        ),
        timeseries(
            "Tokens written by the engine",
            "A second, of all requests together, as the engine counts them.",
            [(written, "tokens per second")],
            "short",
        ),
    ]


def engine() -> list[Panel]:
    """Return the engine's own state."""
    return [
        timeseries(
            "Requests in the engine",
            "running: in the batch; waiting: queued by the engine.",
            [
                (f"sum({series('llm_worker_engine_running_requests')})", "running"),
                (f"sum({series('llm_worker_engine_waiting_requests')})", "waiting"),
            ],
            "short",
            colours={"running": GREEN, "waiting": ORANGE},
        ),
        timeseries(
            "KV cache",
            "The part that requests hold. Above the line what waits is taken to wait for it.",
            [(f"max by (worker) ({series('llm_worker_kv_cache_usage_ratio')})", "{{worker}}")],
            "percentunit",
            limit=0.9,
        ),
        timeseries(
            "Preemptions",
            "Requests that lost their KV cache to others and were computed again.",
            [(rate("llm_worker_preemptions_total"), "preemptions per second")],
            "short",
            colours={"preemptions per second": RED},
        ),
        timeseries(
            "Prefix cache hits",
            "Prompt tokens found in the KV cache, of those looked for in the last minute.",
            [(f"avg by (worker) ({series('llm_worker_prefix_cache_hit_ratio')})", "{{worker}}")],
            "percentunit",
        ),
        timeseries(
            "Accepted tokens per step",
            "Beside the one that a step gives anyway. Below the line speculation does not pay.",
            [(f"avg by (worker) ({series('llm_worker_accepted_tokens_per_step')})", "{{worker}}")],
            "short",
            limit=0.5,
            low_is_bad=True,
        ),
        timeseries(
            "Draft tokens accepted",
            "Of those that were drafted in the last minute.",
            [(f"avg by (worker) ({series('llm_worker_acceptance_ratio')})", "{{worker}}")],
            "percentunit",
        ),
    ]


def bottleneck() -> list[Panel]:
    """Return what holds each worker back."""
    places = [
        f"{place} * sum by (worker) ({series('llm_worker_bottleneck', kind=kind)})"
        for place, (kind, _) in enumerate(BOTTLENECKS)
    ]
    return [
        state_timeline(
            "What holds the engine back",
            "docs/metrics.md says what to do about each. compute is no fault.",
            [(" + ".join(places), "{{worker}}")],
            BOTTLENECKS,
        )
    ]


def delivery() -> list[Panel]:
    """Return how results reach the platform; only a worker on a queue posts them."""
    # Not an increase(), which misses a counter's first event: the counter begins with it.
    again, lost = (
        f"sum({series('llm_worker_posts_total', outcome=outcome)})" for outcome in ("again", "lost")
    )
    return [
        timeseries(
            "POSTs of results",
            "A second, by what came of them. Only on a queue.",
            [(rate("llm_worker_posts_total", "outcome"), "{{outcome}}")],
            "reqps",
            colours=OUTCOMES,
        ),
        timeseries(
            "POST to its answer",
            "How long the platform takes. Streams are flushed no oftener than it answers.",
            quantiles("llm_worker_post_seconds", "p50", "p99"),
            "s",
            colours=QUANTILES,
        ),
        timeseries(
            "POSTs not taken, in total",
            "Since the workers' start. again: sent another time; lost: given up.",
            [(again, "again"), (lost, "lost")],
            "short",
            colours=OUTCOMES,
        ),
    ]


def cold_start() -> list[Panel]:
    """Return what the start was made of."""
    longest = f"sort_desc(max by (stage) ({series('llm_worker_start_seconds')}))"
    return [
        bars(
            "Stages of the start, the longest first",
            "Of the slowest worker. Stages overlap: weights, KV cache and graphs are the engine's.",
            [(longest, "{{stage}}")],
            "s",
        )
    ]


# A row's title, its panels, how many stand side by side, and their height in Grafana's units.
ROWS = (
    ("Now", now, 6, 3),
    ("Requests", requests, 3, 6),
    ("Tokens", tokens, 2, 6),
    ("Engine", engine, 3, 6),
    ("Bottleneck", bottleneck, 1, 4),
    ("Delivery", delivery, 3, 6),
    ("Cold start", cold_start, 1, 8),
)
