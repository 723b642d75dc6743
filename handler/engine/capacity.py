"""How many jobs are taken at once, and lines of a batch: constant, once the engine is up."""

from handler.engine.interface import Capacity

# `auto` counts on a request of this many tokens, prompt and answer: a guess, for nobody knows the
# next request's length. The engine queues, and preempts, what does not fit.
TYPICAL_REQUEST_TOKENS = 1024


def concurrency(setting: str | int, capacity: Capacity) -> int:
    """Return how many jobs to take at once; MAX_CONCURRENCY=auto asks the engine's capacity."""
    if isinstance(setting, int):
        return setting
    typical = min(TYPICAL_REQUEST_TOKENS, capacity.max_model_tokens)
    return max(1, min(capacity.max_sequences, capacity.kv_cache_tokens // typical))


def lines_at_once(wanted: int | None, jobs_at_once: int, capacity: Capacity) -> int:
    """Return how many lines of a batch to ask at once.

    Half of what the engine batches unless the batch says otherwise: other jobs get their turn.

    Args:
        wanted: what the batch says.
        jobs_at_once: what the worker takes, which no batch exceeds.
        capacity: of the engine.
    """
    usual = concurrency("auto", capacity) // 2
    return max(1, min(usual if wanted is None else wanted, jobs_at_once))
