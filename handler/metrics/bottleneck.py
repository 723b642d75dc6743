"""What holds the engine back, and what an operator does about it.

The rules look at one reading and at the window that ends with it, in this order:

1. Idle: nothing runs and nothing waits.
2. KV cache: requests were preempted, or the cache is nearly full while requests wait.
3. Queue: the batch is full while the cache has room. What waits for it waits in the engine or, as a
   worker on a queue takes no more jobs than it runs, on the platform, where nobody here sees it.
4. Compute: the rest. Requests that wait beside a batch with room wait for a prefill.

Where the figures come from this module does not know, nor what time it is.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from handler.metrics.engine_stats import EngineStats, StatsWindow

FULL_KV_CACHE_USAGE = 0.9  # from here on what waits is taken to wait for the KV cache
PAYING_TOKENS_PER_STEP = 0.5  # accepted; with fewer, drafting costs about what it saves
QUIET_SECONDS = 60.0  # from what is logged once to what is logged next

Bottleneck = Literal["kv_cache", "compute", "queue", "idle"]
KINDS: tuple[Bottleneck, ...] = get_args(Bottleneck)

PREEMPTED = (
    "The KV cache is too small for the batch, and preempted requests are computed again: lower "
    "MAX_NUM_SEQS or MAX_MODEL_LEN, set KV_CACHE_DTYPE=fp8, or take a larger card."
)
KV_CACHE_FULL = (
    "The KV cache is full while requests wait: lower MAX_NUM_SEQS or MAX_MODEL_LEN, set "
    "KV_CACHE_DTYPE=fp8, take a larger card, or add workers."
)
BATCH_FULL = (
    "The batch is full while the KV cache has room: raise MAX_CONCURRENCY where it is set, else "
    "MAX_NUM_SEQS, or add workers."
)
COMPUTE_BOUND = (
    "The GPU sets the pace: take a faster card, a quantized model or, for few streams, "
    "SPECULATIVE_METHOD."
)
NOTHING_RUNS = "Nothing runs and nothing waits."
SPECULATION_COSTS = (
    f"Speculation does not pay, with fewer than {PAYING_TOKENS_PER_STEP} accepted tokens a step: "
    "turn it off (SPECULATIVE_METHOD=none) or change the draft."
)


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        kind: the bottleneck.
        advice: one sentence on what to do.
    """

    kind: Bottleneck
    advice: str


def judge(reading: EngineStats, window: StatsWindow, max_running: int) -> Verdict:
    """Return what holds the engine back.

    Args:
        reading: the newest.
        window: what happened up to it.
        max_running: requests that can run at once: the sequences of the engine's batch, over all
            its replicas, or MAX_CONCURRENCY if that is less.
    """
    running, waiting = reading.running or 0, reading.waiting or 0
    if not running and not waiting:
        return Verdict("idle", NOTHING_RUNS)
    if window.preemptions:
        return Verdict("kv_cache", PREEMPTED)
    if waiting and (reading.kv_cache_usage or 0) >= FULL_KV_CACHE_USAGE:
        return Verdict("kv_cache", KV_CACHE_FULL)
    if running >= max_running:
        return Verdict("queue", BATCH_FULL)
    return Verdict("compute", COMPUTE_BOUND)


def speculation_pays(window: StatsWindow) -> bool | None:
    """Return whether drafting is worth its cost; None where nothing was drafted."""
    accepted = window.accepted_tokens_per_step
    return None if accepted is None else accepted >= PAYING_TOKENS_PER_STEP


class Announcer:
    """Says what is worth a line in the log: a change, and nothing more for a minute.

    An idle engine asks for nothing, so idleness is no news, and neither is the bottleneck of before
    when it is back from it. A change within the minute is told after it, if it still holds.
    """

    def __init__(self) -> None:
        self._told: Bottleneck = "idle"
        self._told_of_speculation = False
        self._quiet_until_seconds = float("-inf")

    def lines(self, verdict: Verdict, window: StatsWindow, now_seconds: float) -> tuple[str, ...]:
        """Return the lines to log now.

        Args:
            verdict: the newest.
            window: what it was found in.
            now_seconds: on a clock that only goes forward.
        """
        pays = speculation_pays(window)
        if pays:
            self._told_of_speculation = False
        lines = []
        if verdict.kind not in (self._told, "idle"):
            lines.append(f"bottleneck {verdict.kind}: {verdict.advice}")
        if pays is False and not self._told_of_speculation:
            lines.append(SPECULATION_COSTS)
        if not lines or now_seconds < self._quiet_until_seconds:
            return ()
        if verdict.kind != "idle":
            self._told = verdict.kind
        self._told_of_speculation |= pays is False
        self._quiet_until_seconds = now_seconds + QUIET_SECONDS
        return tuple(lines)
