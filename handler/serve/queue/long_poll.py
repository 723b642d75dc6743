"""A poll that the platform holds open, and what becomes of it when the worker was frozen.

The connection of the open poll may then be dead, and nothing would arrive on it. But an answer may
be under way, and closing the connection would lose its jobs. So the poll stays open to its own
timeout, and beside it a second poll is sent over a new connection. The second asks for what the
first did not, or for one item: both may be answered.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import aiohttp

from handler.engine.awake_clock import AwakeTimeout

T = TypeVar("T")

POLL_TIMEOUT_SECONDS = 90.0  # as in the SDK


class LongPoll(Generic[T]):
    """Sends one poll after the other; use it in one task, and `close` it after that task.

    Args:
        poll: sends one poll over a session, for at most so many items. When it is cancelled after
            its answer has begun, it returns the items all the same.
        make_session: returns a session with connections of its own.
        timeout_seconds: the limit for one poll.
    """

    def __init__(
        self,
        poll: Callable[[aiohttp.ClientSession, int], Awaitable[list[T]]],
        make_session: Callable[[], aiohttp.ClientSession],
        timeout_seconds: float = POLL_TIMEOUT_SECONDS,
    ) -> None:
        self._poll = poll
        self._make_session = make_session
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._newest: asyncio.Task[list[T]] | None = None
        self._open: dict[asyncio.Task[list[T]], int] = {}  # with what each asks for
        self._woken = asyncio.Event()
        self._is_closed = False
        self._unused: list[aiohttp.ClientSession] = []

    async def next(
        self, max_items: int, *, or_until: Callable[[], Awaitable[object]] | None = None
    ) -> list[T]:
        """Return the answers that have come; waits for one.

        Args:
            max_items: that all open polls may bring; with 0, no new poll is sent.
            or_until: returns nothing when this returns.

        Raises:
            asyncio.CancelledError: this task is cancelled, or it was before. The polls stay open:
                `close` returns what they bring.
        """
        if self._is_closed:
            raise asyncio.CancelledError
        interrupt = asyncio.ensure_future(or_until()) if or_until else None
        try:
            while True:
                answered = {poll for poll in self._open if poll.done()}
                self._open = {poll: n for poll, n in self._open.items() if poll not in answered}
                if answered or (interrupt is not None and interrupt.done()):
                    return _items(answered)
                if max_items > 0 and (self._newest is None or self._newest.done()):
                    asked = max(1, max_items - sum(self._open.values()))
                    self._newest = asyncio.ensure_future(self._send(asked))
                    self._open[self._newest] = asked
                await self._wait_for_any(interrupt)
        except asyncio.CancelledError:
            self._is_closed = True
            raise
        finally:
            if interrupt is not None:
                interrupt.cancel()

    def wake(self) -> None:
        """Send the next poll now, over a new connection. Call it on the poll's event loop."""
        if self._session is not None and (self._newest is None or self._newest.done()):
            self._unused.append(self._session)
        self._session = self._newest = None
        self._woken.set()

    async def _wait_for_any(self, interrupt: "asyncio.Future[object] | None") -> None:
        """Wait for an answer, for `interrupt`, or for a wake-up."""
        woken = asyncio.ensure_future(self._woken.wait())
        waiters: set[asyncio.Future[Any]] = {*self._open, woken}
        if interrupt is not None:
            waiters.add(interrupt)
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
        self._woken.clear()

    async def close(self) -> list[T]:
        """End the open polls and connections, accept no more, and return what came."""
        self._is_closed = True
        polls, self._open = set(self._open), {}
        for poll in polls:
            poll.cancel()
        if polls:
            await asyncio.wait(polls)
        for session in (*self._unused, self._session):
            if session is not None:
                await session.close()
        return [item for poll in polls if _has_items(poll) for item in poll.result()]

    async def _send(self, max_items: int) -> list[T]:
        if self._session is None:
            self._session = self._make_session()
        session = self._session
        while self._unused:
            await self._unused.pop().close()
        try:
            with contextlib.suppress(TimeoutError):
                async with AwakeTimeout(self._timeout_seconds):
                    return await self._poll(session, max_items)
            return []
        finally:
            if session is not self._session:
                await session.close()


def _items(answered: set[asyncio.Task[list[T]]]) -> list[T]:
    """Return the items of all answers; the error of one counts only where no other has items."""
    errors = [error for poll in answered if (error := poll.exception())]
    items = [item for poll in answered if _has_items(poll) for item in poll.result()]
    if errors and not items:
        raise errors[0]
    return items


def _has_items(poll: asyncio.Task[list[T]]) -> bool:
    return not poll.cancelled() and poll.exception() is None
