"""The deadline of one request. It bounds the waits for the engine, not those for the caller.

The time for which the worker was frozen does not count.
"""

from collections.abc import Awaitable
from typing import TypeVar

from handler.engine.awake_clock import AwakeTimeout, awake_clock
from handler.errors import RequestTimedOut

T = TypeVar("T")


class Deadline:
    """A deadline that starts when it is made.

    Args:
        timeout_seconds: None for no deadline.
        setting: the setting that the error names.
    """

    def __init__(
        self, timeout_seconds: float | None = None, setting: str = "REQUEST_TIMEOUT"
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._setting = setting
        self._at = None if timeout_seconds is None else awake_clock.now() + timeout_seconds

    async def wait_for(self, awaitable: Awaitable[T]) -> T:
        """Await within the time that is left.

        Raises:
            RequestTimedOut: the deadline has passed.
        """
        if self._at is None:
            return await awaitable
        try:
            async with AwakeTimeout(at=self._at):
                return await awaitable
        except TimeoutError as error:
            raise RequestTimedOut(
                f"The request took longer than {self._setting}={self._timeout_seconds:g} seconds.",
                # The automatic retries of a client would repeat the same work.
                headers={"x-should-retry": "false"},
            ) from error
