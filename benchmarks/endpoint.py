"""A worker behind the platform in small, from its cold start to its end."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import cold, metrics
from benchmarks.load import chat
from benchmarks.workers import BASELINE, Contender
from runpod_local import Job, Platform, running_platform, running_worker

START_SECONDS = 300.0
STOP_SECONDS = 30.0
POST_DELAY_SECONDS = 0.05
FIRST_TOKENS = 2


@dataclass(frozen=True)
class Endpoint:
    """A worker that has answered its first job.

    Attributes:
        platform: what it serves.
        pid: its process.
        start: how it came up.
    """

    platform: Platform
    pid: int
    start: cold.Start


@contextmanager
def serving(contender: Contender, environ: Mapping[str, str], log: Path) -> Iterator[Endpoint]:
    """Run a worker, for which a job waits from the beginning.

    Raises:
        RuntimeError: it did not start, or the first job failed.
        TimeoutError: it took too long to start or to end.
    """
    used = False
    try:
        with (
            running_platform(post_delay_seconds=POST_DELAY_SECONDS) as platform,
            log.open("wb") as file,
        ):
            submitted = platform.submit(chat(1, FIRST_TOKENS))
            began_at = time.monotonic()
            with running_worker(
                platform,
                contender.command,
                environ,
                ready_within_seconds=START_SECONDS,
                stop_within_seconds=contender.stop_within_seconds or STOP_SECONDS,
                log=file,
            ) as worker:
                job = platform.wait(submitted, START_SECONDS)
                if job.error:
                    raise RuntimeError(f"the first job failed: {job.error}")
                yield Endpoint(
                    platform, worker.pid, _start(contender, platform, job, began_at, log)
                )
                used = True
    except TimeoutError:
        if not used or contender.stop_within_seconds is None:
            raise


def _start(
    contender: Contender, platform: Platform, job: Job, began_at: float, log: Path
) -> cold.Start:
    polled_at = min(worker.ready_at or began_at for worker in platform.workers.values())
    first_token_at = job.chunks[0].arrived_at
    if contender is BASELINE:
        told = cold.printed_stages(log.read_text(errors="replace"), began_at)
    else:
        told = cold.exported_stages(metrics.text(platform))
    seen = cold.seen_stages(began_at, polled_at, first_token_at)
    return cold.Start(first_token_at - began_at, (*told, seen[-1]) if told else seen)
