"""From a process's start to the first token of a job that was waiting."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.load import chat
from tests.platform import running_platform, running_worker

START_SECONDS = 300.0
TOKENS = 8


def first_token_seconds(
    command: Sequence[str], environment: Mapping[str, str], log: Path, post_delay_seconds: float
) -> float:
    """Start a worker once and return the seconds until its first chunk arrived.

    Raises:
        RuntimeError: the job failed.
    """
    with (
        running_platform(post_delay_seconds=post_delay_seconds) as platform,
        log.open("ab") as file,
    ):
        submitted = platform.submit(chat(1, TOKENS))
        with running_worker(
            platform, command, environment, ready_within_seconds=START_SECONDS, log=file
        ):
            job = platform.wait(submitted, START_SECONDS)
        if job.error:
            raise RuntimeError(f"the first job failed: {job.error}")
        return job.chunks[0].arrived_at - job.queued_at


def median(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    post_delay_seconds: float,
    times: int,
) -> float:
    """Start a worker several times, after a start that fills the caches and is not counted."""
    first_token_seconds(command, environment, log, post_delay_seconds)
    return statistics.median(
        first_token_seconds(command, environment, log, post_delay_seconds) for _ in range(times)
    )
