"""The deadline of one request: it bounds the waits for the engine, none of those for the caller."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from handler.errors import RequestTimedOut

T = TypeVar("T")


class Deadline:
    """Runs from where it is made, on a running loop.

    Args:
        timeout_seconds: how long the request may take, None for no bound.
        name: of the setting that says so.
    """

    def __init__(self, timeout_seconds: float | None, name: str = "REQUEST_TIMEOUT") -> None:
        self._timeout_seconds = timeout_seconds
        self._name = name
        now = asyncio.get_running_loop().time()
        self._deadline = None if timeout_seconds is None else now + timeout_seconds

    async def bound(self, awaitable: Awaitable[T]) -> T:
        """Await within what is left of the time.

        Raises:
            RequestTimedOut: nothing is left.
        """
        if self._deadline is None:
            return await awaitable
        try:
            async with asyncio.timeout_at(self._deadline):
                return await awaitable
        except TimeoutError as error:
            late = RequestTimedOut(
                f"The job took longer than {self._name}={self._timeout_seconds:g} seconds."
            )
            # A client that asked again by itself would have the same computed three times.
            late.headers = {"x-should-retry": "false"}
            raise late from error
