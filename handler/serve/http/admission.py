"""The admission queue: limits on running and on waiting requests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from handler.engine.runtime import STOPPING
from handler.errors import EngineUnavailable, QueueFull


class AdmissionQueue:
    """Slots for running requests, and a first-in, first-out queue for the others.

    Args:
        slots: the maximum number of running requests.
        max_waiting: the maximum number of waiting requests.

    Attributes:
        waiting: the number of waiting requests.
        running: the number of running requests.
        closed: whether new requests are rejected.
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
        """Return a slot; the caller must close it in a `finally`.

        Raises:
            QueueFull: too many requests are waiting.
        """
        if self._free.locked() and self.waiting >= self._max_waiting:
            raise QueueFull(
                f"The queue is full ({self.running} running, {self.waiting} waiting): try again "
                "soon."
            )
        return Slot(self, self._free)

    @contextlib.asynccontextmanager
    async def batch_line_slot(self) -> AsyncIterator[None]:
        """Hold a slot for one batch line, beyond `max_waiting`: its job has been admitted.

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
    """A request in the queue, which has a slot after `acquired` returns."""

    def __init__(self, queue: AdmissionQueue, free: asyncio.Semaphore) -> None:
        self._queue = queue
        self._free = free
        self._is_acquired = self._is_closed = False
        queue.waiting += 1

    async def acquired(self) -> None:
        """Wait for a free slot.

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
        """Release the slot, or leave the queue. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_acquired:
            self._queue.running -= 1
            self._free.release()
        else:
            self._queue.waiting -= 1
