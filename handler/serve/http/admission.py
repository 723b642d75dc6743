"""How many requests the engine has at once, and how many may wait for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from handler.errors import EngineUnavailable, QueueFull

STOPPED = "The worker is being stopped."


class AdmissionQueue:
    """Places in the engine, and a queue before them: first come, first served.

    Args:
        places: requests in the engine.
        queue: requests that may wait.

    Attributes:
        waiting: requests that wait now.
        taken: requests in the engine now.
        closed: whether nobody gets a place any more; from any thread.
    """

    def __init__(self, places: int, queue: int) -> None:
        self._queue = queue
        self._free = asyncio.Semaphore(places)
        self.waiting = 0
        self.taken = 0
        self.closed = False

    def reserve(self) -> "Slot":
        """Return a place, which is to be closed, whatever happens.

        Raises:
            QueueFull: too many wait already.
        """
        if self._free.locked() and self.waiting >= self._queue:
            raise QueueFull(
                f"{self.taken} requests are being answered and {self.waiting} wait: try again soon."
            )
        return Slot(self, self._free)

    @contextlib.asynccontextmanager
    async def line(self) -> AsyncIterator[None]:
        """Have a place for one line of a batch, whose job has waited already.

        Raises:
            EngineUnavailable: there is none any more.
        """
        await self._free.acquire()
        try:
            if self.closed:
                raise EngineUnavailable(STOPPED)
            self.taken += 1
            try:
                yield
            finally:
                self.taken -= 1
        finally:
            self._free.release()


class Slot:
    """One request's: it waits from its making on."""

    def __init__(self, slots: AdmissionQueue, free: asyncio.Semaphore) -> None:
        self._slots = slots
        self._free = free
        self._is_taken = self._is_closed = False
        slots.waiting += 1

    async def taken(self) -> None:
        """Return when it is this request's turn.

        Raises:
            EngineUnavailable: it does not come any more.
        """
        await self._free.acquire()
        if self._slots.closed:
            self._free.release()
            raise EngineUnavailable(STOPPED)
        self._is_taken = True
        self._slots.waiting -= 1
        self._slots.taken += 1

    def close(self) -> None:
        """Let the next one have it. Any number of times."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_taken:
            self._slots.taken -= 1
            self._free.release()
        else:
            self._slots.waiting -= 1
