"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

POLL_INTERVAL_SECONDS = 0.01


def wait_until(condition: Callable[[], object], timeout_seconds: float = 60.0) -> None:
    """Wait until a condition is true.

    Raises TimeoutError if it does not become true.
    """
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true after {timeout_seconds} s")
        time.sleep(POLL_INTERVAL_SECONDS)
