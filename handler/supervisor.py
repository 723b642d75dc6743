"""The end of the worker when one of its threads or tasks ends by an exception.

A worker without its monitor, its metrics or its pings looks healthy and is not. So every thread and
task that lasts as long as the worker is started or watched here, and whoever serves is told.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

from handler.errors import LoopFailed

log = logging.getLogger(__name__)


class Supervisor:
    """Notices the first thread or task that ends by an exception. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failure = ""
        self._notify: list[Callable[[], object]] = []

    @property
    def failure(self) -> str:
        """What ended first, and the exception's type; empty while nothing has."""
        return self._failure

    def check(self) -> None:
        """Raise LoopFailed if something has ended."""
        if self._failure:
            raise LoopFailed(f"{self._failure}. The platform must replace this worker.")

    def on_failure(self, notify: Callable[[], object]) -> None:
        """Call `notify` once: at the failure, on any thread, or now if it has been."""
        with self._lock:
            if not self._failure:
                self._notify.append(notify)
                return
        notify()

    def thread(self, name: str, target: Callable[[], object]) -> threading.Thread:
        """Return a thread that is not started yet; the worker ends if `target` raises."""

        def run() -> None:
            try:
                target()
            except BaseException as error:  # a SystemExit would end the thread silently
                self._failed(name, error)

        return threading.Thread(target=run, name=name, daemon=True)

    def watch(self, name: str, task: "asyncio.Task[Any]") -> None:
        """End the worker if this task ends by an exception."""

        def check(ended: "asyncio.Task[Any]") -> None:
            error = None if ended.cancelled() else ended.exception()
            if error is not None:
                self._failed(name, error)

        task.add_done_callback(check)

    def _failed(self, name: str, error: BaseException) -> None:
        log.error("the worker's %s ended by an exception", name, exc_info=error)
        with self._lock:
            if self._failure:
                return
            self._failure = f"The worker's {name} ended by {type(error).__name__}"
        for notify in self._notify:
            notify()
