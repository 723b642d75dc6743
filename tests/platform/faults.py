"""Faults on demand: the next N requests of one kind are answered badly, or not at all."""

from __future__ import annotations

from collections import deque
from typing import Literal

Kind = Literal["take", "stop", "stream", "done", "ping"]
KINDS: tuple[Kind, ...] = ("take", "stop", "stream", "done", "ping")
DROP = 0
"""Instead of a status: the connection is closed without an answer."""


class Faults:
    """What is still to go wrong, per kind of request.

    Usable from any thread: a deque's append and popleft are atomic.
    "take" means both job-take and job-take-batch.
    """

    def __init__(self) -> None:
        self._planned: dict[str, deque[int]] = {kind: deque() for kind in KINDS}

    def fail(self, kind: Kind, *, status: int, times: int = 1) -> None:
        """Answer the next `times` requests of this kind with the status."""
        if not 400 <= status <= 599:
            message = f"status is {status}, an error status (400 to 599) is needed"
            raise ValueError(message)
        self._of(kind).extend([status] * times)

    def drop(self, kind: Kind, *, times: int = 1) -> None:
        """Close the connection of the next `times` requests of this kind without an answer."""
        self._of(kind).extend([DROP] * times)

    def remaining(self, kind: Kind) -> int:
        """How many planned faults of this kind have not happened yet."""
        return len(self._of(kind))

    def next(self, kind: Kind) -> int | None:
        """Take the next planned fault: a status, DROP, or None for a good answer."""
        planned = self._of(kind)
        return planned.popleft() if planned else None

    def clear(self) -> None:
        """Forget all planned faults."""
        for planned in self._planned.values():
            planned.clear()

    def _of(self, kind: str) -> deque[int]:
        if kind not in self._planned:
            message = f"there is no request kind {kind!r}, there are {', '.join(KINDS)}"
            raise ValueError(message)
        return self._planned[kind]
