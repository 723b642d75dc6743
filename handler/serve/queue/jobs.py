"""The SDK's jobs, from their poll to their last POST.

The SDK starts a job up to 0.1 s after its poll; the worker sends the job's request to the engine
before that. Stop signals have a poll of their own, and can arrive before their job.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from handler.logs import job_id
from handler.serve.worker import Output, PreparedJob, Worker

log = logging.getLogger(__name__)

EARLY_STOP_TTL_SECONDS = 5.0  # from a stop signal to the start of its job


class PrestartedJobs:
    """Requests sent to the engine before the SDK starts their job."""

    def __init__(self) -> None:
        self._prepared: dict[str, PreparedJob] = {}
        self._stopped_until: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._prepared)

    def start(self, name: str, prepare_job: Callable[[], PreparedJob]) -> None:
        """Send a job's request, unless it was sent or stopped before."""
        if name not in self._prepared and not self._is_stopped(name):
            prepared = self._prepared[name] = prepare_job()
            prepared.call.begin()

    def take(self, name: str) -> PreparedJob | None:
        """Remove and return a job that the SDK starts, or None if it was not prestarted."""
        return self._prepared.pop(name, None)

    def stop(self, names: Iterable[str]) -> None:
        """Abort the requests of jobs before their start, and store the stop signal."""
        now = time.monotonic()
        self._stopped_until = {n: until for n, until in self._stopped_until.items() if until > now}
        for name in names:
            self._stopped_until[name] = now + EARLY_STOP_TTL_SECONDS
            if prepared := self.take(name):
                prepared.call.close()

    def take_stop(self, name: str) -> bool:
        """Return whether a job was stopped, and remove the stored stop signal."""
        is_stopped = self._is_stopped(name)
        self._stopped_until.pop(name, None)
        return is_stopped

    def _is_stopped(self, name: str) -> bool:
        return self._stopped_until.get(name, 0.0) > time.monotonic()


class QueueJobs:
    """The SDK's jobs: `prestart` is called after their poll, `handle` at their start."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._prestarted = PrestartedJobs()
        self._running: set[str] = set()
        self._job_ended = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()

    @property
    def busy(self) -> bool:
        """Whether a job is running or prestarted."""
        return bool(self.tasks or self._prestarted)

    def prestart(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """Send the requests of jobs before the SDK calls `handle`."""
        for job in jobs:
            data = job.get("input")
            if isinstance(data, dict) and data.get("batch") is not None:
                continue
            with contextlib.suppress(Exception):  # `handle` raises the same error and reports it
                prepare_job = functools.partial(self._worker.prepare, job)
                self._prestarted.start(str(job.get("id", "")), prepare_job)

    def stop_early(self, names: Iterable[str]) -> None:
        """Stop jobs before their start; the SDK stops running jobs itself."""
        self._prestarted.stop(name for name in names if name not in self._running)

    def cancelled_early(self, name: str) -> None:
        """Clean up after a job that was cancelled before its first step."""
        self._prestarted.take_stop(name)
        self._job_ended.set()

    async def wait_for_end(self) -> None:
        """Wait until a job ends."""
        self._job_ended.clear()
        await self._job_ended.wait()

    async def handle(self, job: Mapping[str, Any]) -> AsyncIterator[Output]:
        """Run one job; the SDK calls this on its own event loop, in the job's task."""
        name = str(job.get("id", ""))
        job_id.set(name)
        await self._start(name)
        try:
            with self._worker.recorded(name) as record:
                prepared = self._prestarted.take(name)
                async for output in self._worker.outputs(job, record, prepared=prepared):
                    yield output
        finally:
            self._running.discard(name)

    async def _start(self, name: str) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        if self._prestarted.take_stop(name):
            log.info("the job was stopped before its start")
            task.cancel()
            await asyncio.sleep(0)  # raises the cancellation, as in a running job
        self._running.add(name)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        self._job_ended.set()
