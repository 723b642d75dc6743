"""The engine's capacity, and how many jobs and batch lines are sent to it at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# MAX_CONCURRENCY=auto assumes requests of this many tokens, prompt and answer together. The engine
# queues, and preempts, what does not fit.
TYPICAL_REQUEST_TOKENS = 1024


@dataclass(frozen=True)
class Capacity:
    """The engine's capacity over all data-parallel replicas, known after its start.

    Attributes:
        max_sequences: sequences in the batches of all replicas.
        kv_cache_tokens: tokens that the KV cache holds over all sequences.
        max_model_tokens: the longest context of one sequence.
    """

    max_sequences: int
    kv_cache_tokens: int
    max_model_tokens: int


def max_token_characters(tokenizer: Callable[[], Any]) -> int | None:
    """Return the characters of a tokenizer's longest token, None if it does not say.

    Args:
        tokenizer: returns the engine's tokenizer, None or an error if it has none.
    """
    try:
        vocabulary: dict[str, int] = tokenizer().get_vocab()
    except (AttributeError, NotImplementedError, ValueError):
        return None
    return max(map(len, vocabulary), default=None)


def job_concurrency(max_concurrency: str | int, capacity: Capacity) -> int:
    """Return how many jobs to take at once, for MAX_CONCURRENCY as a number or `auto`."""
    if isinstance(max_concurrency, int):
        return max_concurrency
    typical = min(TYPICAL_REQUEST_TOKENS, capacity.max_model_tokens)
    return max(1, min(capacity.max_sequences, capacity.kv_cache_tokens // typical))


def batch_concurrency(requested: int | None, max_jobs: int, capacity: Capacity) -> int:
    """Return how many lines of a batch to send at once.

    The default is half of the engine's capacity, so that other jobs get their turn.

    Args:
        requested: the batch's own `concurrency`.
        max_jobs: jobs that the worker takes at once; no batch exceeds it.
    """
    default = job_concurrency("auto", capacity) // 2
    return max(1, min(default if requested is None else requested, max_jobs))
