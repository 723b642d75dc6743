"""One job: its input, its state, and its results with their arrival times.

All times are `time.monotonic()` seconds, so that a benchmark on the same machine can compare
them with its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Notifier:
    """Wakes all tasks of one event loop that wait for a change.

    Like `asyncio.Condition` without its lock, so that code without an `await` can notify.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify_all(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait_for(
        self, predicate: Callable[[], object], timeout_seconds: float | None
    ) -> bool:
        """Wait until the predicate is true or the time is up; returns whether it is true."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not predicate():
                    await self._event.wait()
        except TimeoutError:
            return bool(predicate())
        return True


class JobState(StrEnum):
    """The job states that the platform shows to its users."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


FINISHED_STATES = frozenset(
    {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT}
)


@dataclass(frozen=True)
class Chunk:
    """An accepted job-stream POST."""

    output: Any
    arrived_at: float
    body_bytes: int


@dataclass(eq=False)
class Job:
    """A job. Only `EndpointState` changes it, in the server's event loop.

    `late_posts` are the POSTs ("stream" or "done") that came when it was not in progress: they are
    accepted and ignored.
    """

    id: str
    input: Any
    execution_timeout_seconds: float
    state: JobState = JobState.IN_QUEUE
    queued_at: float = field(default_factory=time.monotonic)
    taken_at: float | None = None
    finished_at: float | None = None
    worker_id: str | None = None
    chunks: list[Chunk] = field(default_factory=list)
    chunks_sent_to_user: int = 0
    progress: list[Any] = field(default_factory=list)
    output: Any = None
    error: Any = None
    done_bytes: int = 0
    attempts: int = 0
    rejected_chunk_bytes: list[int] = field(default_factory=list)
    late_posts: list[str] = field(default_factory=list)
    changed: Notifier = field(default_factory=Notifier, repr=False)

    @property
    def finished(self) -> bool:
        """Whether the state is final, unless the job is retried."""
        return self.state in FINISHED_STATES

    def requeue(self) -> None:
        """Reset the job to what it was when it was submitted, for a retry."""
        self.state = JobState.IN_QUEUE
        self.queued_at = time.monotonic()
        self.taken_at = self.finished_at = self.worker_id = None
        self.chunks, self.progress = [], []
        self.output = self.error = None
        self.done_bytes = self.chunks_sent_to_user = 0

    def status(self) -> dict[str, Any]:
        """Return the body of `/status`, `/run` and `/runsync`. Times are milliseconds."""
        body: dict[str, Any] = {"id": self.id, "status": self.state.value}
        if self.taken_at is not None:
            body["delayTime"] = round((self.taken_at - self.queued_at) * 1000)
            body["workerId"] = self.worker_id
            if self.finished_at is not None:
                body["executionTime"] = round((self.finished_at - self.taken_at) * 1000)
        if self.output is not None:
            body["output"] = self.output
        if self.error is not None:
            body["error"] = self.error
        return body
