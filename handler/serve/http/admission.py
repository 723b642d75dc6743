"""The admission queue: how many requests the engine has at once, and how many may wait for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from handler.engine.runtime import STOPPING
from handler.errors import EngineUnavailable, QueueFull


class AdmissionQueue:
    """Slots in the engine and a queue in front of them: first come, first served.

    Args:
        slots: requests in the engine.
        max_waiting: requests that may wait.

    Attributes:
        waiting: requests that wait now.
        running: requests in the engine now.
        closed: whether no request is admitted any more.
    """

    def __init__(self, slots: int, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._free = asyncio.Semaphore(slots)
        self.waiting = 0
        self.running = 0
        self.closed = False

    def close(self) -> None:
        """Admit no request any more; may be called from any thread."""
        self.closed = True

    def enter(self) -> "Slot":
        """Return a slot, which must be closed, whatever happens.

        Raises:
            QueueFull: too many requests wait already.
        """
        if self._free.locked() and self.waiting >= self._max_waiting:
            raise QueueFull(
                f"{self.running} requests are being answered and {self.waiting} wait: try again "
                "soon."
            )
        return Slot(self, self._free)

    @contextlib.asynccontextmanager
    async def batch_line_slot(self) -> AsyncIterator[None]:
        """Hold a slot for one line of a batch, whose job has waited already.

        Raises:
            EngineUnavailable: the queue is closed.
        """
        await self._free.acquire()
        try:
            if self.closed:
                raise EngineUnavailable(STOPPING)
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
        finally:
            self._free.release()


class Slot:
    """One request's slot; the request waits until `acquired` returns."""

    def __init__(self, queue: AdmissionQueue, free: asyncio.Semaphore) -> None:
        self._queue = queue
        self._free = free
        self._is_acquired = self._is_closed = False
        queue.waiting += 1

    async def acquired(self) -> None:
        """Wait for the request's turn.

        Raises:
            EngineUnavailable: the queue was closed.
        """
        await self._free.acquire()
        if self._queue.closed:
            self._free.release()
            raise EngineUnavailable(STOPPING)
        self._is_acquired = True
        self._queue.waiting -= 1
        self._queue.running += 1

    def close(self) -> None:
        """Free the slot for the next request. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_acquired:
            self._queue.running -= 1
            self._free.release()
        else:
            self._queue.waiting -= 1
