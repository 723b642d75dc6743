"""A worker as a child process of a test or benchmark, with a bounded start and end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from tests.platform.thread import WORKER_ID, Platform

LAST_POLL_SECONDS = 0.1
LOOK_EVERY_SECONDS = 0.5


@contextmanager
def running_worker(
    platform: Platform,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    worker_id: str = WORKER_ID,
    ready_within_seconds: float = 60.0,
    stop_within_seconds: float = 15.0,
    log: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker from its first poll to its end by SIGTERM.

    The environment is the worker's whole environment, apart from what the platform adds.
    What the worker prints goes to `log`, or where ours goes.
    Raises TimeoutError when the worker is not ready in time or has to be killed in the
    end, RuntimeError when it ended before it was ready. Its process group is killed in
    any case: the SDK's ping process outlives a killed worker.
    """
    worker = subprocess.Popen(
        list(command),
        env={**environment, **platform.worker_environment(worker_id)},
        start_new_session=True,
        stdout=log,
        stderr=log and subprocess.STDOUT,
    )
    try:
        wait_until_ready(platform, worker, worker_id, ready_within_seconds)
        yield worker
        stop(platform, worker, stop_within_seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def wait_until_ready(
    platform: Platform, worker: subprocess.Popen[bytes], worker_id: str, within_seconds: float
) -> None:
    """Wait for the first poll, and notice when it cannot come any more."""
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            platform.wait_for_worker(
                LOOK_EVERY_SECONDS, lambda seen: seen.id == worker_id and seen.ready
            )
        except TimeoutError:
            if worker.poll() is not None:
                message = f"the worker ended with code {worker.returncode} before it was ready"
                raise RuntimeError(message) from None
            if time.monotonic() > deadline:
                raise
        else:
            return


def stop(platform: Platform, worker: subprocess.Popen[bytes], within_seconds: float) -> None:
    """Ask the worker to end, and answer its polls at once so that the SDK can.

    The real platform is not known to do the latter: there, the SDK needs up to the length
    of a poll.
    """
    if worker.poll() is not None:
        return
    worker.terminate()
    poll_seconds = platform.settings.poll_seconds
    platform.settings.poll_seconds = LAST_POLL_SECONDS
    platform.release_polls()
    try:
        worker.wait(within_seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"the worker did not end within {within_seconds} s") from None
    finally:
        platform.settings.poll_seconds = poll_seconds
