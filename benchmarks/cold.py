"""From a process's start to the first token of a job that was waiting."""

import statistics
from collections.abc import Mapping
from pathlib import Path

from benchmarks.load import chat
from benchmarks.workers import START_SECONDS, Contender, running
from tests.platform import running_platform

TOKENS = 8


def first_token_seconds(
    contender: Contender, shared: Mapping[str, str], log: Path, post_delay_seconds: float
) -> float:
    """Start a worker once and return the seconds until its first chunk arrived.

    Raises:
        RuntimeError: the job failed.
    """
    with running_platform(post_delay_seconds=post_delay_seconds) as platform:
        submitted = platform.submit(chat(1, TOKENS))
        with running(contender, platform, shared, log):
            job = platform.wait(submitted, START_SECONDS)
        if job.error:
            raise RuntimeError(f"the first job failed: {job.error}")
        return job.chunks[0].arrived_at - job.queued_at


def median(
    contender: Contender,
    shared: Mapping[str, str],
    log: Path,
    post_delay_seconds: float,
    times: int,
) -> float:
    """Start a worker several times, after a start that fills the caches and is not counted."""
    first_token_seconds(contender, shared, log, post_delay_seconds)
    return statistics.median(
        first_token_seconds(contender, shared, log, post_delay_seconds) for _ in range(times)
    )
