"""How many jobs and batch lines are sent to an engine at once."""

import pytest

from handler.engine.capacity import Capacity, batch_concurrency, job_concurrency

CAPACITY = Capacity(max_sequences=8, kv_cache_tokens=8192, max_model_tokens=2048)


@pytest.mark.parametrize(
    ("setting", "capacity", "jobs"),
    [
        (5, CAPACITY, 5),
        ("auto", Capacity(8, 4096, 2048), 4),
        ("auto", Capacity(2, 4096, 2048), 2),
        ("auto", Capacity(256, 8192, 128), 64),
        ("auto", Capacity(256, 100, 2048), 1),
    ],
    ids=["a number", "typical requests", "sequences", "a short context", "a small cache"],
)
def test_auto_is_what_the_engine_can_batch_and_its_cache_holds(setting, capacity, jobs):
    """A number is a number; a typical request has 1,024 tokens, or the longest context."""
    assert job_concurrency(setting, capacity) == jobs


@pytest.mark.parametrize(
    ("requested", "max_jobs", "lines"),
    [(None, 8, 4), (None, 2, 2), (3, 8, 3), (100, 8, 8)],
    ids=["half of the engine's batch", "a small worker", "as asked", "no more than the worker's"],
)
def test_a_batch_sends_half_of_what_the_engine_can_batch(requested, max_jobs, lines):
    """The engine here batches eight typical requests."""
    assert batch_concurrency(requested, max_jobs, CAPACITY) == lines
