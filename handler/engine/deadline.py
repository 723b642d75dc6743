"""The deadline of one request. It bounds the waits for the engine, not those for the caller."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from handler.errors import RequestTimedOut

T = TypeVar("T")


class Deadline:
    """A deadline that starts when it is made, on a running loop.

    Args:
        timeout_seconds: None for no deadline.
        setting: the setting that the error names.
    """

    def __init__(
        self, timeout_seconds: float | None = None, setting: str = "REQUEST_TIMEOUT"
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._setting = setting
        now = asyncio.get_running_loop().time()
        self._at = None if timeout_seconds is None else now + timeout_seconds

    async def wait_for(self, awaitable: Awaitable[T]) -> T:
        """Await within the time that is left.

        Raises:
            RequestTimedOut: the deadline has passed.
        """
        if self._at is None:
            return await awaitable
        try:
            async with asyncio.timeout_at(self._at):
                return await awaitable
        except TimeoutError as error:
            raise RequestTimedOut(
                f"The request took longer than {self._setting}={self._timeout_seconds:g} seconds.",
                # The automatic retries of a client would repeat the same work.
                headers={"x-should-retry": "false"},
            ) from error
