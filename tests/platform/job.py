"""One job: its input, its state, what arrived for it, and when.

All moments are `time.monotonic()` seconds, so that a benchmark on the same machine
can compare them with its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.platform.news import News


class State(StrEnum):
    """The job states that the platform shows to its users."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


FINAL_STATES = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.TIMED_OUT})


@dataclass(frozen=True)
class Chunk:
    """One accepted job-stream POST."""

    output: Any
    arrived_at: float
    body_bytes: int


@dataclass(frozen=True)
class LatePost:
    """A POST that was accepted and ignored: the job was not in progress any more."""

    kind: str
    arrived_at: float
    body_bytes: int


@dataclass(eq=False)
class Job:
    """A job. Only the store changes it, and only in the server's event loop."""

    id: str
    input: Any
    execution_timeout_seconds: float
    state: State = State.IN_QUEUE
    queued_at: float = field(default_factory=time.monotonic)
    taken_at: float | None = None
    finished_at: float | None = None
    worker_id: str | None = None
    chunks: list[Chunk] = field(default_factory=list)
    progress: list[Any] = field(default_factory=list)
    output: Any = None
    error: Any = None
    done_bytes: int = 0
    attempts: int = 0
    stop_pod: bool = False
    refused_bytes: list[int] = field(default_factory=list)
    late_posts: list[LatePost] = field(default_factory=list)
    streamed_to_user: int = 0
    news: News = field(default_factory=News, repr=False)

    @property
    def finished(self) -> bool:
        """Whether the state will not change any more, unless the job is retried."""
        return self.state in FINAL_STATES

    def requeue(self) -> None:
        """Make the job look as it did when it was submitted, for a retry."""
        self.state = State.IN_QUEUE
        self.queued_at = time.monotonic()
        self.taken_at = self.finished_at = self.worker_id = None
        self.chunks, self.progress = [], []
        self.output = self.error = None
        self.done_bytes = self.streamed_to_user = 0

    def status(self) -> dict[str, Any]:
        """What `/status`, `/run`, `/cancel` and `/retry` answer. Times are milliseconds."""
        answer: dict[str, Any] = {"id": self.id, "status": self.state.value}
        if self.taken_at is not None:
            answer["delayTime"] = round((self.taken_at - self.queued_at) * 1000)
            answer["workerId"] = self.worker_id
            if self.finished_at is not None:
                answer["executionTime"] = round((self.finished_at - self.taken_at) * 1000)
        if self.output is not None:
            answer["output"] = self.output
        if self.error is not None:
            answer["error"] = self.error
        return answer
