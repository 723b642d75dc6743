"""How many jobs are taken at once: constant, once the engine is up."""

from handler.engine.protocol import Capacity

# `auto` counts on a request of this many tokens, prompt and answer: a guess, for nobody knows the
# next request's length. The engine queues, and preempts, what does not fit.
TYPICAL_REQUEST_TOKENS = 1024


def concurrency(setting: str | int, capacity: Capacity) -> int:
    """Return how many jobs to take at once; MAX_CONCURRENCY=auto asks the engine's capacity."""
    if isinstance(setting, int):
        return setting
    typical = min(TYPICAL_REQUEST_TOKENS, capacity.max_model_tokens)
    return max(1, min(capacity.max_sequences, capacity.kv_cache_tokens // typical))
