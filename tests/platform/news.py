"""Waking everyone who waits for a change, without polling and without locks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class News:
    """A broadcast inside one event loop: `tell()` wakes all who wait in `wait_for()`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Let all waiters look at their condition again."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait_for(
        self, condition: Callable[[], object], timeout_seconds: float | None
    ) -> bool:
        """Wait until the condition holds, or the time is up: returns whether it holds."""
        if condition():
            return True
        try:
            async with asyncio.timeout(timeout_seconds):
                while not condition():
                    await self._event.wait()
        except TimeoutError:
            return bool(condition())
        return True
