"""Jobs whose request is sent to the engine before the SDK starts them, and early stop signals.

The SDK starts a job up to a tenth of a second after it has taken it. Stop signals come by a poll of
their own, which may be answered before the one that brings the job.
"""

import time
from collections.abc import Callable, Iterable

from handler.serve.worker import OpenedJob

EARLY_STOP_TTL_SECONDS = 5.0  # from a stop signal to the start of that job


class PrestartedJobs:
    """Opened jobs by their id, until the SDK starts them; true where there is one."""

    def __init__(self) -> None:
        self._opened: dict[str, OpenedJob] = {}
        self._stopped_until: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._opened)

    def start(self, name: str, open_job: Callable[[], OpenedJob]) -> None:
        """Send a job's request, unless that is done or the job has been stopped."""
        if name not in self._opened and not self._is_stopped(name):
            opened = self._opened[name] = open_job()
            opened.call.begin()

    def take(self, name: str) -> OpenedJob | None:
        """Return the job that the SDK starts now, None if it was not prestarted."""
        return self._opened.pop(name, None)

    def stop(self, names: Iterable[str]) -> None:
        """Abort the requests of jobs that the SDK has not started, and remember the stop."""
        now = time.monotonic()
        self._stopped_until = {n: until for n, until in self._stopped_until.items() if until > now}
        for name in names:
            self._stopped_until[name] = now + EARLY_STOP_TTL_SECONDS
            if opened := self.take(name):
                opened.call.close()

    def take_stop(self, name: str) -> bool:
        """Whether a job that starts or ends now was stopped; the next job of that id was not."""
        is_stopped = self._is_stopped(name)
        self._stopped_until.pop(name, None)
        return is_stopped

    def _is_stopped(self, name: str) -> bool:
        return self._stopped_until.get(name, 0.0) > time.monotonic()
