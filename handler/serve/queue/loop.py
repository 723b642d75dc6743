"""The queue front end: the Runpod SDK takes jobs and calls the worker's generator.

The SDK owns the main thread and its loop here. Added to it: a drain on SIGTERM, and an exit code
when the engine dies. The SDK's own shutdown waits up to 90 s for its open polls, and drops a job
that such a poll still brings.
"""

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvloop

from handler.engine.runtime import EngineRuntime
from handler.errors import EngineDied
from handler.logs import job_id
from handler.serve.queue.delivery import Delivery, OnPost
from handler.serve.queue.prestart import PrestartedJobs
from handler.serve.queue.sdk_patches import SdkHooks, patch_sdk, post_progress
from handler.serve.worker import Output, Worker

log = logging.getLogger(__name__)

CANCEL_RETRY_INTERVAL_SECONDS = 0.1
JOB_START_GRACE_SECONDS = 0.3  # the SDK starts a job up to 0.1 s after it has taken it


class QueueFrontEnd:
    """Serves the platform's queue until SIGTERM, SIGINT or the engine's death.

    Args:
        max_jobs: at once; constant, for the SDK can change it only when no job runs.
        drain_timeout_seconds: how long running jobs get after SIGTERM.
        on_first_poll: called when the platform is asked for the first job.
        on_post: see `Delivery`.
    """

    def __init__(
        self,
        *,
        max_jobs: int,
        drain_timeout_seconds: float,
        on_first_poll: Callable[[], object],
        on_post: OnPost,
    ) -> None:
        self._max_jobs = max_jobs
        self._drain_timeout_seconds = drain_timeout_seconds
        self._on_first_poll = on_first_poll
        self._delivery = Delivery(on_post)

    async def report_progress(self, job: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        await post_progress(job, counts)

    def batch_line_slot(self) -> AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()  # the batch's own concurrency is the limit

    def serve(self, worker: Worker) -> None:
        """Take jobs until the end.

        Raises:
            EngineDied: the engine died; every job that ran has failed with an error.
        """
        import runpod.serverless

        jobs = QueueJobs(worker)
        drain = Drain(worker, jobs, self._drain_timeout_seconds)

        def free_slots(taken: int) -> int:
            return 0 if drain.has_begun else self._max_jobs - taken

        def concurrency(_: int) -> int:
            if drain.attach():
                self._on_first_poll()
            return 2 * self._max_jobs + 1  # never full: `free_slots` is the limit

        patch_sdk(
            SdkHooks(
                free_slots=free_slots,
                slot_freed=jobs.wait_for_end,
                jobs_taken=jobs.prestart,
                jobs_stopped=jobs.stop_early,
                job_cancelled=jobs.cancelled_early,
                transmit=self._delivery.transmit,
            )
        )
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        # The SDK reads its options from sys.argv, which holds none of the worker's.
        with contextlib.suppress(asyncio.CancelledError):  # how `Drain` ends the SDK's loop
            runpod.serverless.start(
                {
                    "handler": jobs.handle,
                    "concurrency_modifier": concurrency,
                    "return_aggregate_stream": True,
                }
            )
        if worker.runtime.dead:
            raise EngineDied("The engine died. The platform has to replace this worker.")


class QueueJobs:
    """The jobs that the SDK has taken, from the poll that brings them to their last POST."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._prestarted = PrestartedJobs()
        self._running: set[str] = set()
        self._job_ended = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()

    @property
    def busy(self) -> bool:
        """Whether a job is not over, or is prestarted."""
        return bool(self.tasks or self._prestarted)

    def prestart(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """Send the requests of jobs for which the SDK is going to call `handle`."""
        for job in jobs:
            data = job.get("input")
            if isinstance(data, dict) and "batch" in data:
                continue
            with contextlib.suppress(Exception):  # `handle` meets the same error, and answers it
                open_job = functools.partial(self._worker.open, job)
                self._prestarted.start(str(job.get("id", "")), open_job)

    def stop_early(self, names: Iterable[str]) -> None:
        """Stop jobs that the SDK has not started; it stops the others itself."""
        self._prestarted.stop(name for name in names if name not in self._running)

    def cancelled_early(self, name: str) -> None:
        """Forget a job that was cancelled before its first step."""
        self._prestarted.take_stop(name)
        self._job_ended.set()

    async def wait_for_end(self) -> None:
        """Wait until a job ends."""
        self._job_ended.clear()
        await self._job_ended.wait()

    async def handle(self, job: Mapping[str, Any]) -> AsyncIterator[Output]:
        """Answer one job; the SDK calls this on its own loop, in the job's task."""
        name = str(job.get("id", ""))
        job_id.set(name)
        await self._start(name)
        try:
            with self._worker.recorded(name) as record:
                opened = self._prestarted.take(name)
                async for output in self._worker.outputs(job, record, opened=opened):
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
            log.info("stopped before it started")
            task.cancel()
            await asyncio.sleep(0)  # where the cancellation is raised, as in a running job
        self._running.add(name)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        self._job_ended.set()


class Drain:
    """The end of the queue: running jobs finish or fail, then the SDK's loop ends."""

    def __init__(self, worker: Worker, jobs: QueueJobs, timeout_seconds: float) -> None:
        self._worker = worker
        self._runtime: EngineRuntime = worker.runtime
        self._jobs = jobs
        self._timeout_seconds = timeout_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poll: asyncio.Task[Any] | None = None
        self._drain: asyncio.Task[None] | None = None
        self._runtime.on_death(self._engine_died)

    @property
    def has_begun(self) -> bool:
        return self._drain is not None

    def attach(self) -> bool:
        """Note the SDK's poll task, and return whether this is the first poll.

        Called before each poll. The first call is also the first moment at which the SDK's loop
        runs and its signal handlers, which are replaced here, are in place.
        """
        self._poll = asyncio.current_task()
        if self._loop is not None:
            return False
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled, signal.Signals(number).name)
        if self._runtime.dead:
            self._begin(self._worker.last_output_grace_seconds)
        return True

    def _signalled(self, name: str) -> None:
        if self.has_begun:
            return
        log.info("%s: %d jobs to finish", name, len(self._jobs.tasks))
        self._begin(self._timeout_seconds)

    def _engine_died(self) -> None:
        """Called on the engine's thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the SDK's loop has ended already
                grace_seconds = self._worker.last_output_grace_seconds
                self._loop.call_soon_threadsafe(self._begin, grace_seconds)

    def _begin(self, timeout_seconds: float) -> None:
        if self._drain is None:
            self._drain = asyncio.get_running_loop().create_task(self._run(timeout_seconds))

    async def _run(self, timeout_seconds: float) -> None:
        """Let running jobs finish, fail those that do not, and end the SDK's loop."""
        await self._wait_for_jobs(timeout_seconds)
        if self._jobs.tasks:
            log.warning("%d jobs did not finish in %g s", len(self._jobs.tasks), timeout_seconds)
            self._runtime.fail_requests("The worker was stopped before the answer was complete.")
            await self._wait_for_jobs(self._worker.last_output_grace_seconds)
        while self._poll is not None and not self._poll.done():
            # Repeatedly: Python 3.11's wait_for, in which the SDK polls, drops a cancellation that
            # comes together with the poll's answer.
            self._poll.cancel()
            await asyncio.sleep(CANCEL_RETRY_INTERVAL_SECONDS)

    async def _wait_for_jobs(self, timeout_seconds: float) -> None:
        """Wait until no job runs, and none that was taken is still to start."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while True:
                    while self._jobs.tasks:
                        await asyncio.wait(self._jobs.tasks)
                    await asyncio.sleep(JOB_START_GRACE_SECONDS)
                    if not self._jobs.busy:
                        return
