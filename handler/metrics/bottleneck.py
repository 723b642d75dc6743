"""What limits the engine, and what an operator can do about it.

The rules look at the newest stats and at the window that ends with them, in this order:

1. Idle: nothing runs and nothing waits.
2. KV cache: requests were preempted, or the cache is nearly full while requests wait.
3. Queue: the batch is full while the cache has room. The requests that wait for it are in the
   engine, or on the platform: a queue worker takes no more jobs than it runs.
4. Compute: the rest. Requests that wait beside a batch with room wait for a prefill.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from handler.metrics.engine_stats import EngineStats, StatsWindow

FULL_KV_CACHE_USAGE = 0.9  # above it, requests that wait are taken to wait for the KV cache
MIN_ACCEPTED_PER_STEP = 0.5  # tokens; with fewer, drafting costs about what it saves
LOG_INTERVAL_SECONDS = 60.0

BottleneckKind = Literal["kv_cache", "compute", "queue", "idle"]
KINDS: tuple[BottleneckKind, ...] = get_args(BottleneckKind)

PREEMPTED = (
    "The KV cache is too small for the batch, and preempted requests are computed again: lower "
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
    "The GPU sets the pace: use a faster GPU, a quantized model or, for few streams, "
    "SPECULATIVE_METHOD."
)
NOTHING_RUNS = "Nothing runs and nothing waits."
SPECULATION_COSTS = (
    f"Speculation does not pay, with fewer than {MIN_ACCEPTED_PER_STEP} accepted tokens a step: "
    "turn it off (SPECULATIVE_METHOD=none) or change the draft."
)


@dataclass(frozen=True)
class Bottleneck:
    """What limits the engine, and one sentence of advice."""

    kind: BottleneckKind
    advice: str


def find_bottleneck(stats: EngineStats, window: StatsWindow, max_running: int) -> Bottleneck:
    """Return what limits the engine.

    Args:
        stats: the newest.
        window: what happened up to them.
        max_running: requests that the engine can run at once: the sequences of its batch over all
            replicas, or MAX_CONCURRENCY if that is less.
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
    """Return whether drafting is worth its cost; None if nothing was drafted."""
    accepted = window.accepted_tokens_per_step
    return None if accepted is None else accepted >= MIN_ACCEPTED_PER_STEP


class BottleneckLog:
    """Which lines go to the log: changes, at most once a minute.

    Idleness is not logged, nor is the bottleneck of before when the engine is back from idleness. A
    change within the minute is logged after it, if it still holds.
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
            bottleneck: the newest.
            window: in which it was found.
            now_seconds: on a monotonic clock.
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
