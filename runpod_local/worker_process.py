"""A worker as a child process of a test or benchmark."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from runpod_local.platform import DEFAULT_WORKER_ID, Platform

POLL_SECONDS_WHILE_STOPPING = 0.1
EXIT_CHECK_INTERVAL_SECONDS = 0.5


@contextmanager
def running_worker(
    platform: Platform,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    worker_id: str = DEFAULT_WORKER_ID,
    ready_within_seconds: float = 60.0,
    stop_within_seconds: float = 60.0,
    log: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker: yields after its first poll, and stops it with SIGTERM.

    Args:
        platform: the platform that the worker polls.
        command: the worker's program and arguments.
        environment: all of the worker's environment, apart from what the platform adds.
        worker_id: the worker's id on the platform.
        ready_within_seconds: time limit for its first poll.
        stop_within_seconds: time limit for its exit after SIGTERM.
        log: file for its output; None for this process's own stdout and stderr.

    Raises:
        TimeoutError: the worker was not ready in time, or had to be killed.
        RuntimeError: the worker exited before it was ready.
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
        if worker.poll() is None:
            terminate(platform, worker, stop_within_seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the SDK's ping process outlives a kill
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def wait_until_ready(
    platform: Platform, worker: subprocess.Popen[bytes], worker_id: str, timeout_seconds: float
) -> None:
    """Wait for the worker's first poll, or for its exit."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return platform.wait_for_worker(
                EXIT_CHECK_INTERVAL_SECONDS, lambda seen: seen.id == worker_id and seen.ready
            )
        except TimeoutError:
            if worker.poll() is not None:
                raise RuntimeError(
                    f"the worker exited with code {worker.returncode} before it was ready"
                ) from None
            if time.monotonic() > deadline:
                raise


def terminate(platform: Platform, worker: subprocess.Popen[bytes], timeout_seconds: float) -> None:
    """Send SIGTERM and wait for the exit, while the worker's polls are answered at once.

    The SDK ends between polls. The real platform is not known to answer them earlier, so that
    there the exit may take as long as a poll.
    """
    worker.terminate()
    poll_seconds = platform.settings.poll_seconds
    platform.settings.poll_seconds = POLL_SECONDS_WHILE_STOPPING
    platform.release_polls()
    try:
        worker.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"the worker did not exit within {timeout_seconds} s") from None
    finally:
        platform.settings.poll_seconds = poll_seconds
