"""Jobs that are taken and have not begun: their requests are sent ahead, and may be stopped ahead.

The SDK begins a job up to a tenth of a second after it has taken it. Its stop signals come by a
poll of their own, whose answer may be there before the job is.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from handler.engine.asgi_call import AsgiCall
from handler.request.parse import ParsedJob

STOP_SECONDS = 5.0  # from a stop signal to the SDK's start of that job


@dataclass(frozen=True)
class OpenedJob:
    """A job, understood, and its exchange with the engine, which may have begun."""

    job: ParsedJob
    exchange: AsgiCall


class PrestartedJobs:
    """By their names; true where there is one."""

    def __init__(self) -> None:
        self._opened: dict[str, OpenedJob] = {}
        self._stopped: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._opened)

    def begin(self, name: str, open_job: Callable[[], OpenedJob]) -> None:
        """Send a job's request, once; not that of a job which is stopped already."""
        if name not in self._opened and not self._is_stopped(name):
            opened = self._opened[name] = open_job()
            opened.exchange.begin()

    def take(self, name: str) -> OpenedJob | None:
        """Return a job that begins now, None if its request has not been sent."""
        return self._opened.pop(name, None)

    def stop(self, names: Iterable[str]) -> None:
        """Abort the requests of jobs that have not begun, and remember the names."""
        now = time.monotonic()
        self._stopped = {name: end for name, end in self._stopped.items() if end > now}
        for name in names:
            self._stopped[name] = now + STOP_SECONDS
            if opened := self.take(name):
                opened.exchange.close()

    def was_stopped(self, name: str) -> bool:
        """Return whether a job that begins or ends now was stopped; its name may come again."""
        is_stopped = self._is_stopped(name)
        self._stopped.pop(name, None)
        return is_stopped

    def _is_stopped(self, name: str) -> bool:
        return self._stopped.get(name, 0.0) > time.monotonic()
