"""The SDK's jobs, from their poll to their last POST.

The SDK starts a job up to 0.1 s after its poll; the worker sends the job's request to the engine
before that. Stop signals have a poll of their own, and can arrive before their job.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from handler.engine.awake_clock import AwakeTimeout, awake_clock
from handler.errors import InvalidInput, RequestError, render
from handler.logs import job_id
from handler.serve.queue.job_take import LARGE, REFUSED
from handler.serve.worker import Output, PreparedJob, Worker

log = logging.getLogger(__name__)

JOB_START_GRACE_SECONDS = 0.3  # the SDK starts a job up to 0.1 s after its poll
EARLY_STOP_TTL_SECONDS = 5.0  # from a stop signal to the start of its job


class PrestartedJobs:
    """Requests sent to the engine before the SDK starts their job."""

    def __init__(self) -> None:
        self._prepared: dict[str, PreparedJob] = {}
        self._stopped_until: dict[str, float] = {}

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
        now = awake_clock.now()
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
        return self._stopped_until.get(name, 0.0) > awake_clock.now()


class QueueJobs:
    """The SDK's jobs: `taken` is called after their poll, `handle` at their start."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._prestarted = PrestartedJobs()
        self._unstarted: set[str] = set()
        self._running: set[str] = set()
        self._job_ended = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._closing: set[asyncio.Future[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether a job is running or about to start."""
        return bool(self.tasks or self._unstarted)

    def taken(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """Send the requests of jobs before the SDK calls `handle`."""
        for job in jobs:
            name = str(job.get("id", ""))
            self._unstarted.add(name)
            if LARGE in job or _is_batch(job):
                continue
            with contextlib.suppress(Exception):  # `handle` raises the same error and reports it
                prepare_job = functools.partial(self._worker.prepare, job)
                self._prestarted.start(name, prepare_job)

    def stop_early(self, names: Iterable[str]) -> None:
        """Stop jobs before their start; the SDK stops running jobs itself."""
        self._prestarted.stop(name for name in names if name not in self._running)

    def dropped(self, name: str) -> None:
        """Clean up after a job for which `handle` may not have been called."""
        self._unstarted.discard(name)
        self._prestarted.take_stop(name)
        if prepared := self._prestarted.take(name):
            prepared.call.close()
        self._job_ended.set()

    async def wait_for_all(self, timeout_seconds: float) -> None:
        """Wait until no job is running or about to start."""
        with contextlib.suppress(TimeoutError):
            async with AwakeTimeout(timeout_seconds):
                await self.all_ended()

    async def all_ended(self) -> None:
        """Wait until no job is running or about to start, however long that takes."""
        while True:
            while self.tasks:
                await asyncio.wait(set(self.tasks))
            await asyncio.sleep(JOB_START_GRACE_SECONDS)
            if not self.busy:
                return

    def wait_for_end(self) -> Awaitable[object]:
        """Wait until a job ends after this call, even if it is before the first step of waiting."""
        self._job_ended.clear()
        return self._job_ended.wait()

    async def handle(self, job: Mapping[str, Any]) -> AsyncGenerator[Output]:
        """Run one job and yield its outputs; on the SDK's event loop, in the job's task."""
        name = str(job.get("id", ""))
        job_id.set(name)
        await self._start(name)
        outputs = self._outputs(job, name)
        if task := asyncio.current_task():
            task.add_done_callback(functools.partial(self._close, outputs))
        async for output in outputs:
            yield output

    async def _outputs(self, job: Mapping[str, Any], name: str) -> AsyncGenerator[Output]:
        try:
            with self._worker.recorded(name) as record:
                if reason := job.get(REFUSED):
                    error = reason if isinstance(reason, RequestError) else InvalidInput(reason)
                    record.failed(error)
                    yield {"error": render(error)}
                    return
                prepared = self._prestarted.take(name)
                is_large = LARGE in job and not _is_batch(job)
                async for output in self._worker.outputs(
                    job, record, prepared=prepared, is_large=is_large
                ):
                    yield output
        finally:
            self._running.discard(name)
            self._worker.released(job.get(LARGE, 0))

    async def _start(self, name: str) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self.tasks.add(task)
        self._unstarted.discard(name)
        task.add_done_callback(self._ended)
        if self._prestarted.take_stop(name):
            log.info("the job was stopped before its start")
            task.cancel()
            await asyncio.sleep(0)  # raises the cancellation, as in a running job
        self._running.add(name)

    def _close(self, outputs: AsyncGenerator[Output], task: asyncio.Task[Any]) -> None:
        """Close the generators of a cancelled task, from the outer to the inner.

        They stand at a yield. The end of the loop would close them in any order, which fails.
        """
        if task.cancelled():
            closing = asyncio.ensure_future(outputs.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        self._job_ended.set()


def _is_batch(job: Mapping[str, Any]) -> bool:
    data = job.get("input")
    return isinstance(data, dict) and data.get("batch") is not None
