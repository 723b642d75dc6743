"""What the platform has seen of one worker."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tests.platform.news import News


@dataclass(frozen=True)
class Ping:
    """One heartbeat. `status`, `check` and `reason` come only from a failed fitness check."""

    arrived_at: float
    job_ids: tuple[str, ...]
    runpod_version: str | None
    status: str | None = None
    check: str | None = None
    reason: str | None = None


@dataclass
class Worker:
    """A worker as seen from here. `ready_at` is the moment of its first poll for a job."""

    id: str
    ready_at: float | None = None
    last_seen_at: float = field(default_factory=time.monotonic)
    polls: int = 0
    pings: list[Ping] = field(default_factory=list)
    jobs_to_stop: list[str] = field(default_factory=list)
    stop_news: News = field(default_factory=News, repr=False)

    @property
    def ready(self) -> bool:
        """Whether it asked for a job at least once."""
        return self.ready_at is not None

    @property
    def unhealthy(self) -> bool:
        """Whether its last word was that a fitness check failed."""
        return bool(self.pings) and self.pings[-1].status == "unhealthy"
