"""Planned faults: the next requests of a kind get an error status, or no answer at all."""

from __future__ import annotations

from collections import deque
from typing import Literal, get_args

Kind = Literal["take", "stop", "stream", "done", "ping"]
DROP_CONNECTION = 0
"""Used as a status: the connection is closed without an answer."""


class Faults:
    """The planned faults by kind of request; "take" is both job-take and job-take-batch.

    Usable from any thread: a deque's append and popleft are atomic.
    """

    def __init__(self) -> None:
        self._planned: dict[Kind, deque[int]] = {kind: deque() for kind in get_args(Kind)}

    def fail(self, kind: Kind, *, status: int, times: int = 1) -> None:
        """Answer the next `times` requests of this kind with the status."""
        if not 400 <= status <= 599:
            raise ValueError(f"status must be an error status (400 to 599), got {status}")
        self._planned[kind].extend([status] * times)

    def drop(self, kind: Kind, *, times: int = 1) -> None:
        """Close the connection of the next `times` requests of this kind without an answer."""
        self._planned[kind].extend([DROP_CONNECTION] * times)

    def remaining(self, kind: Kind) -> int:
        """Return how many planned faults of this kind have not happened yet."""
        return len(self._planned[kind])

    def next(self, kind: Kind) -> int | None:
        """Take the next planned fault: a status, DROP_CONNECTION, or None where none is planned."""
        planned = self._planned[kind]
        return planned.popleft() if planned else None
