"""What happens around the jobs: how long the start took, and how many jobs at once."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from handler.engine.protocol import Capacity

# `auto` counts on a request of this many tokens, prompt and answer: a guess, for nobody knows the
# next request's length. The engine queues, and preempts, what does not fit.
TYPICAL_REQUEST_TOKENS = 1024


class Stages:
    """Seconds that each stage of the start took, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started

    def __str__(self) -> str:
        parts = [f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items()]
        return f"start: {' · '.join(parts)} · total {sum(self.seconds.values()):.1f} s"


def concurrency(setting: str | int, capacity: Capacity) -> int:
    """Return how many jobs to take at once; MAX_CONCURRENCY=auto asks the engine's capacity."""
    if isinstance(setting, int):
        return setting
    typical = min(TYPICAL_REQUEST_TOKENS, capacity.max_model_tokens)
    return max(1, min(capacity.max_sequences, capacity.kv_cache_tokens // typical))
