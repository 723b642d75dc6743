"""Planned faults: what happens to the next requests of a kind instead of an answer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["take", "stop", "stream", "done", "ping"]


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        status: the answer's status; 0 closes the connection without an answer.
        body: the answer's body; None for the JSON of an error.
        content_type: of `body`.
        is_cut: whether the connection is reset in the middle of the body.
        delay_seconds: the time before all of this.
        is_answered: whether the request has its usual effect after the delay, and its usual answer
            unless the status is 0 or the answer is cut.
    """

    status: int = 200
    body: bytes | None = None
    content_type: str = "application/json"
    is_cut: bool = False
    delay_seconds: float = 0.0
    is_answered: bool = False


class Faults:
    """The planned faults by kind of request; "take" is both job-take and job-take-batch.

    Usable from any thread: a deque's append and popleft are atomic.
    """

    def __init__(self) -> None:
        self._planned: dict[Kind, deque[Fault]] = {kind: deque() for kind in get_args(Kind)}

    def fail(self, kind: Kind, *, status: int, times: int = 1) -> None:
        """Answer the next `times` requests of this kind with the status."""
        if not 400 <= status <= 599:
            raise ValueError(f"status must be an error status (400 to 599), got {status}")
        self._plan(kind, Fault(status), times)

    def drop(self, kind: Kind, *, times: int = 1) -> None:
        """Close the connection of the next `times` requests of this kind without an answer."""
        self._plan(kind, Fault(0), times)

    def answer(
        self, kind: Kind, body: bytes, *, content_type: str = "application/json", times: int = 1
    ) -> None:
        """Answer the next `times` requests of this kind with 200 and this body, whatever it is."""
        self._plan(kind, Fault(body=body, content_type=content_type), times)

    def cut(self, kind: Kind, body: bytes, *, is_answered: bool = False, times: int = 1) -> None:
        """Reset the connection of the next `times` requests in the middle of this answer.

        With `is_answered` they have their effect before it.
        """
        self._plan(kind, Fault(body=body, is_cut=True, is_answered=is_answered), times)

    def delay(self, kind: Kind, seconds: float, *, times: int = 1) -> None:
        """Answer the next `times` requests of this kind as usual, but later."""
        self._plan(kind, Fault(delay_seconds=seconds, is_answered=True), times)

    def lose(self, kind: Kind, *, times: int = 1) -> None:
        """Take the next `times` requests of this kind, and close the connection instead of an
        answer."""
        self._plan(kind, Fault(0, is_answered=True), times)

    def remaining(self, kind: Kind) -> int:
        """Return how many planned faults of this kind have not happened yet."""
        return len(self._planned[kind])

    def clear(self, kind: Kind) -> None:
        """Forget the planned faults of this kind."""
        self._planned[kind].clear()

    def next(self, kind: Kind) -> Fault | None:
        """Take the next planned fault, None where none is planned."""
        planned = self._planned[kind]
        return planned.popleft() if planned else None

    def _plan(self, kind: Kind, fault: Fault, times: int) -> None:
        self._planned[kind].extend([fault] * times)
