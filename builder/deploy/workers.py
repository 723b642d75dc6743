"""How many workers of an endpoint do what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.deploy.api import Thing


@dataclass(frozen=True)
class Workers:
    """Counts of workers.

    Attributes:
        starting: that are not ready yet.
        ready: that wait for a request, or answer one.
        throttled: that wait for a card.
        unhealthy: that fail their health check.
    """

    starting: int = 0
    ready: int = 0
    throttled: int = 0
    unhealthy: int = 0

    @classmethod
    def of_health(cls, health: Thing) -> "Workers":
        """Read a queue's /health."""
        counts = health.get("workers") or {}
        # `ready` is said to be idle and running together, and is not always there.
        ready = max(_count(counts, "ready"), _count(counts, "idle") + _count(counts, "running"))
        return cls(_count(counts, "initializing"), ready, *_rest(counts))

    @classmethod
    def of_summary(cls, listed: Thing) -> "Workers":
        """Read the summary in the API's list of workers."""
        counts = listed.get("summary") or {}
        ready = _count(counts, "idle") + _count(counts, "running")
        return cls(_count(counts, "initializing"), ready, *_rest(counts))

    def __str__(self) -> str:
        counts = {
            "initializing": self.starting,
            "ready": self.ready,
            "throttled": self.throttled,
            "unhealthy": self.unhealthy,
        }
        words = [f"{count} {word}" for word, count in counts.items() if count]
        return ", ".join(words) or "no worker"


def _rest(counts: Mapping[str, Any]) -> tuple[int, int]:
    return _count(counts, "throttled"), _count(counts, "unhealthy")


def _count(counts: Mapping[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) else 0
