"""The queue front door: the Runpod SDK takes jobs and calls the worker's generator.

The SDK owns the process's main thread and loop here. What this module adds is the end: a drain on
SIGTERM, and an end with an exit code when the engine dies. The SDK's own shutdown waits up to 90 s
for its open polls and forgets a job that such a poll still brings.
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import uvloop

from handler.errors import EngineDied
from handler.serve.queue.delivery import Delivery, Posted
from handler.serve.worker import LAST_SECONDS, Worker
from handler.settings import Settings

log = logging.getLogger(__name__)

CANCEL_AGAIN_SECONDS = 0.1
LOOK_SECONDS = 0.1
BEGIN_SECONDS = 0.3  # the SDK begins a job up to 0.1 s after it has taken it

# The SDK reads these when it is imported. Its checks of GPU and disk take seconds and can create a
# CUDA context in this process; what matters of them the engine finds out by itself.
SDK_ENVIRONMENT = {
    "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
    "RUNPOD_SKIP_GPU_CHECK": "true",
}


def prepare_sdk(settings: Settings) -> None:
    """Import the SDK, which takes over a second: call it while the engine loads."""
    for name, value in SDK_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Its default is DEBUG, which prints every chunk. The worker logs a line per job itself.
    level = {"DEBUG": "DEBUG", "INFO": "WARN", "WARNING": "WARN", "ERROR": "ERROR"}
    os.environ.setdefault("RUNPOD_LOG_LEVEL", level[settings.log_level])
    root = logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    import runpod.serverless  # noqa: F401

    root.handlers[:] = handlers  # the SDK would have every library's INFO printed once more
    root.setLevel(root_level)


class QueueFrontEnd:
    """Serves the platform's queue until SIGTERM, SIGINT or the engine's death.

    Args:
        worker: answers the jobs.
        jobs_at_once: constant, for the SDK can change it only when no job runs.
        drain_timeout_seconds: how long running jobs get after SIGTERM.
        on_first_take: called when the platform is asked for the first job.
        posted: told of each POST of a result.
    """

    def __init__(
        self,
        worker: Worker,
        jobs_at_once: int,
        drain_timeout_seconds: float,
        on_first_take: Callable[[], object],
        posted: Posted,
    ) -> None:
        self._worker = worker
        self._host = worker.host
        self._jobs_at_once = jobs_at_once
        self._drain_timeout_seconds = drain_timeout_seconds
        self._on_first_take = on_first_take
        self._posted = posted
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poll: asyncio.Task[Any] | None = None
        self._end: asyncio.Task[None] | None = None
        self._failure: EngineDied | None = None
        self._job_ended = asyncio.Event()
        worker.on_end = self._job_ended.set
        worker.on_progress = _post_progress

    def serve(self) -> None:
        """Take jobs until the end.

        The SDK has no hooks for what is wrapped here. A full worker would look for a free slot
        once a second, and a job in its own queue counts twice; it would begin a job up to a tenth
        of a second after it has taken it; it would go on taking jobs in a drain; and it drops a
        stop signal for a job that it has taken and not begun.

        Raises:
            EngineDied: the engine died; every job that ran has failed with an error.
        """
        import runpod.serverless
        from runpod.serverless.modules import rp_http, rp_scale
        from runpod.serverless.modules.worker_state import JobsProgress

        self._host.on_death(self._engine_died)
        take, fetch = rp_scale.get_job, rp_scale.get_stop_signals
        in_progress = JobsProgress()

        async def get_job(session: Any, _: int = 1) -> list[dict[str, Any]]:
            free = self._jobs_at_once - in_progress.get_job_count()
            if self._end is not None or free <= 0:
                # After the signal no more are taken; the poll that was open brings the last.
                self._job_ended.clear()
                await self._job_ended.wait()
                return []  # and be called again, with all of the SDK's time for a poll
            jobs = await take(session, free) or []
            self._worker.expect(jobs)
            return list(jobs)

        async def get_stop_signals(session: Any) -> list[str]:
            if session.closed:
                # The loop has ended, and this poll's cancellation was lost: an error of the
                # closed connection came first. Without another one the SDK would poll for ever.
                raise asyncio.CancelledError
            names: list[str] = await fetch(session)
            self._worker.stop_early(names)
            return names

        rp_scale.get_job, rp_scale.get_stop_signals = get_job, get_stop_signals
        rp_scale.JobScaler.run_jobs = lambda scaler, session: _run_jobs(
            scaler, session, self._worker.never_began
        )
        rp_http._transmit = Delivery(self._posted).transmit
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        # The SDK reads its flags from sys.argv, which holds none of the worker's.
        with contextlib.suppress(asyncio.CancelledError):  # how `_leave` ends the SDK's loop
            runpod.serverless.start(
                {
                    "handler": self._worker.handle,
                    "concurrency_modifier": self._concurrency,
                    "return_aggregate_stream": True,
                }
            )
        if self._failure is not None:
            raise self._failure

    def _concurrency(self, _: int) -> int:
        """Tell the SDK how many jobs to take; it asks on its loop before each poll.

        The first call is also the first moment at which the SDK's loop runs and its signal
        handlers, which are not ours, are in place.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._signalled, signal.Signals(number).name)
            self._on_first_take()
            if self._host.dead:
                self._engine_died()
        self._poll = asyncio.current_task()
        return 2 * self._jobs_at_once + 1  # never full: `get_job` takes no more than there may be

    def _signalled(self, name: str) -> None:
        log.info("%s: %d jobs to finish", name, len(self._worker.tasks))
        self._leave_after(self._drain_timeout_seconds)

    def _engine_died(self) -> None:
        self._failure = EngineDied("The engine died. The platform has to replace this worker.")
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the SDK's loop has ended already
                self._loop.call_soon_threadsafe(self._leave_after, LAST_SECONDS)

    def _leave_after(self, seconds: float) -> None:
        if self._end is None:
            self._end = asyncio.get_running_loop().create_task(self._leave(seconds))

    async def _leave(self, seconds: float) -> None:
        """Let running jobs finish, fail those that do not, and end the SDK's loop."""
        await self._jobs_over(seconds)
        if self._worker.tasks:
            log.warning("%d jobs did not finish in %g s", len(self._worker.tasks), seconds)
            self._host.fail_requests("The worker was stopped before the answer was complete.")
            await self._jobs_over(self._worker.last_seconds)
        while self._poll is not None and not self._poll.done():
            # Again and again: Python 3.11's wait_for, in which the SDK polls, forgets a
            # cancellation that comes together with the poll's answer.
            self._poll.cancel()
            await asyncio.sleep(CANCEL_AGAIN_SECONDS)

    async def _jobs_over(self, seconds: float) -> None:
        """Wait until no job runs, nor one that was taken is still to begin."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    while self._worker.tasks:
                        await asyncio.wait(self._worker.tasks)
                    await asyncio.sleep(BEGIN_SECONDS)
                    if not self._worker.busy:
                        return


async def _post_progress(job: Mapping[str, Any], progress: Mapping[str, int]) -> None:
    """Post a job's progress, and return when it has arrived.

    The SDK's `progress_update` posts the same from a thread of its own: the last progress could
    come after the job's end, and the connections here are this loop's.
    """
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules.rp_http import send_result

    async with AsyncClientSession() as session:
        await send_result(session, {"status": "IN_PROGRESS", "output": progress}, job)


async def _run_jobs(scaler: Any, session: Any, never_began: Callable[[str], object]) -> None:
    """Begin each job when it is there, in place of `JobScaler.run_jobs`.

    That one looks for new jobs ten times a second, and at all running ones each time.

    Args:
        scaler, session: the SDK's.
        never_began: called with a job that was stopped before its first step, and so without the
            SDK's end.
    """
    tasks: set[asyncio.Task[None]] = set()

    def over(job: dict[str, Any], task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if scaler.jobs_tasks.get(job["id"]) is task:
            del scaler.jobs_tasks[job["id"]]
            scaler.job_progress.remove(job)
            scaler.jobs_queue.task_done()
            never_began(job["id"])

    while scaler.is_alive() or not scaler.jobs_queue.empty():
        try:
            job = await asyncio.wait_for(scaler.jobs_queue.get(), LOOK_SECONDS)
        except TimeoutError:
            continue  # and look whether the worker is to end
        task = asyncio.create_task(scaler.handle_job(session, job))
        scaler.jobs_tasks[job["id"]] = task
        tasks.add(task)
        task.add_done_callback(functools.partial(over, job))
    await asyncio.gather(*tasks, return_exceptions=True)
