"""The bottleneck of the engine, and advice for the operator.

The rules use the newest stats and the window before them, in this order:

1. Idle: no request runs or waits.
2. KV cache: requests were preempted, or the cache is nearly full while requests wait.
3. Queue: the batch is full while the cache has room. More requests wait in the engine, or on the
   platform, because a queue worker takes only as many jobs as it runs.
4. Compute: otherwise. Requests that wait while the batch has room wait for their prefill.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from handler.metrics.engine_stats import EngineStats, StatsWindow

FULL_KV_CACHE_USAGE = 0.9  # from here, waiting requests count as waiting for the KV cache
MIN_ACCEPTED_PER_STEP = 0.5  # tokens; below it, drafting costs about as much as it saves
LOG_INTERVAL_SECONDS = 60.0

BottleneckKind = Literal["kv_cache", "compute", "queue", "idle"]
KINDS: tuple[BottleneckKind, ...] = get_args(BottleneckKind)

PREEMPTED = (
    "The KV cache is too small for the batch; preempted requests are computed again: lower "
    "MAX_NUM_SEQS or MAX_MODEL_LEN, set KV_CACHE_DTYPE=fp8, or use a larger GPU."
)
KV_CACHE_FULL = (
    "The KV cache is full while requests wait: lower MAX_NUM_SEQS or MAX_MODEL_LEN, set "
    "KV_CACHE_DTYPE=fp8, use a larger GPU, or add workers."
)
BATCH_FULL = (
    "The batch is full while the KV cache has room: raise MAX_CONCURRENCY where it is set, else "
    "MAX_NUM_SEQS, or add workers."
)
COMPUTE_BOUND = (
    "The GPU is the limit: use a faster GPU, a quantized model or, for few streams, "
    "SPECULATIVE_METHOD."
)
NOTHING_RUNS = "No request runs or waits."
SPECULATION_COSTS = (
    f"Drafting costs more than it saves, with under {MIN_ACCEPTED_PER_STEP} accepted tokens a "
    "step: turn it off (SPECULATIVE_METHOD=none) or use another draft model."
)


@dataclass(frozen=True)
class Bottleneck:
    """A kind of bottleneck, and one sentence of advice."""

    kind: BottleneckKind
    advice: str


def find_bottleneck(stats: EngineStats, window: StatsWindow, max_running: int) -> Bottleneck:
    """Return the bottleneck of the engine.

    Args:
        stats: the newest sample.
        window: the time before it.
        max_running: requests that the engine can run at once: the batch size over all replicas, or
            MAX_CONCURRENCY if that is less.
    """
    running, waiting = stats.running or 0, stats.waiting or 0
    if not running and not waiting:
        return Bottleneck("idle", NOTHING_RUNS)
    if window.preemptions:
        return Bottleneck("kv_cache", PREEMPTED)
    if waiting and (stats.kv_cache_usage or 0) >= FULL_KV_CACHE_USAGE:
        return Bottleneck("kv_cache", KV_CACHE_FULL)
    if running >= max_running:
        return Bottleneck("queue", BATCH_FULL)
    return Bottleneck("compute", COMPUTE_BOUND)


def speculation_pays(window: StatsWindow) -> bool | None:
    """Return whether drafting saves more time than it costs; None if nothing was drafted."""
    accepted = window.accepted_tokens_per_step
    return None if accepted is None else accepted >= MIN_ACCEPTED_PER_STEP


class BottleneckLog:
    """Chooses the log lines: changes of the bottleneck, at most once a minute.

    Idle is never logged, and neither is the same bottleneck after an idle time. A change within the
    minute is logged at its end, if it still holds.
    """

    def __init__(self) -> None:
        self._logged_kind: BottleneckKind = "idle"
        self._logged_speculation = False
        self._quiet_until_seconds = float("-inf")

    def lines(
        self, bottleneck: Bottleneck, window: StatsWindow, now_seconds: float
    ) -> tuple[str, ...]:
        """Return the lines to log now.

        Args:
            bottleneck: the newest one.
            window: the time before it.
            now_seconds: the monotonic clock.
        """
        pays = speculation_pays(window)
        if pays:
            self._logged_speculation = False
        lines = []
        if bottleneck.kind not in (self._logged_kind, "idle"):
            lines.append(f"bottleneck {bottleneck.kind}: {bottleneck.advice}")
        if pays is False and not self._logged_speculation:
            lines.append(SPECULATION_COSTS)
        if not lines or now_seconds < self._quiet_until_seconds:
            return ()
        if bottleneck.kind != "idle":
            self._logged_kind = bottleneck.kind
        self._logged_speculation |= pays is False
        self._quiet_until_seconds = now_seconds + LOG_INTERVAL_SECONDS
        return tuple(lines)
