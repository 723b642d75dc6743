"""State of one worker, from its polls and pings."""

from __future__ import annotations

from dataclasses import dataclass, field

from runpod_local.jobs import Notifier


@dataclass(frozen=True)
class Ping:
    """A heartbeat, or the report of a failed fitness check.

    Only the report has a status, "unhealthy", the name of the check, and the reason.
    """

    arrived_at: float
    job_ids: tuple[str, ...]
    runpod_version: str | None
    status: str | None = None
    check: str | None = None
    reason: str | None = None


@dataclass
class Worker:
    """A worker. `ready_at` is the time of its first poll for a job."""

    id: str
    ready_at: float | None = None
    pings: list[Ping] = field(default_factory=list)
    jobs_to_stop: list[str] = field(default_factory=list)
    stop_requested: Notifier = field(default_factory=Notifier, repr=False)

    @property
    def ready(self) -> bool:
        return self.ready_at is not None

    def status(self, *, busy: bool) -> str:
        """Return the name under which `/health` counts the worker."""
        if self.pings and self.pings[-1].status == "unhealthy":
            return "unhealthy"
        if not self.ready:
            return "initializing"
        return "running" if busy else "idle"
