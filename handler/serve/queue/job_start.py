"""The start of the jobs that were taken, and the end of those that could not be started.

It replaces the SDK's loop, which starts a job up to 0.1 s after its poll, and in which a job whose
task fails never ends.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from handler.errors import EngineUnavailable

POLL_INTERVAL_SECONDS = 0.1

FailJob = Callable[[Any, dict[str, Any], Exception], Awaitable[object]]
"""Fails a job, given the SDK's session, the job and the error."""


async def start_jobs(
    scaler: Any,
    session: Any,
    unstarted: dict[str, dict[str, Any]],
    job_dropped: Callable[[str], object],
    fail_job: FailJob,
) -> None:
    """Start each job at once; replaces `JobScaler.run_jobs`.

    Args:
        scaler: the SDK's JobScaler.
        session: the SDK's aiohttp session.
        unstarted: the jobs that were taken, by their ids; each is removed when it is started.
        job_dropped: called with the id of a job that was cancelled before its first step, when the
            SDK's own clean-up does not run, or on which the SDK itself failed.
        fail_job: called if the SDK itself failed on a job.
    """
    tasks: set[asyncio.Task[None]] = set()

    def ended(job: dict[str, Any], task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if scaler.jobs_tasks.get(job["id"]) is task:
            del scaler.jobs_tasks[job["id"]]
            scaler.job_progress.remove(job)
            scaler.jobs_queue.task_done()
            job_dropped(job["id"])

    async def run(job: dict[str, Any]) -> None:
        try:
            await scaler.handle_job(session, job)
        except Exception as error:  # otherwise the job would never end
            job_dropped(job["id"])
            await fail_job(session, job, error)

    while scaler.is_alive() or not scaler.jobs_queue.empty():
        try:  # `wait_for` of Python 3.11 loses a cancellation that comes with a job
            async with asyncio.timeout(POLL_INTERVAL_SECONDS):
                job = await scaler.jobs_queue.get()
        except TimeoutError:
            continue  # checks is_alive again
        unstarted.pop(job["id"], None)
        task = asyncio.create_task(run(job))
        scaler.jobs_tasks[job["id"]] = task
        tasks.add(task)
        task.add_done_callback(functools.partial(ended, job))
    await asyncio.gather(*tasks, return_exceptions=True)


async def fail_unstarted(
    session: Any,
    unstarted: dict[str, dict[str, Any]],
    job_dropped: Callable[[str], object],
    fail_job: FailJob,
) -> None:
    """Fail the jobs that were taken and not started: in the SDK's queue, or on the way there."""
    error = EngineUnavailable("The worker ended before it could start this job.")
    jobs = dict(unstarted)
    unstarted.clear()
    for name in jobs:
        job_dropped(name)
    await asyncio.gather(*(fail_job(session, job, error) for job in jobs.values()))
