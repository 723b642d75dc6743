"""Replaced functions of the Runpod SDK, which has no hooks for these purposes.

All rows are needed since SDK 1.12.0; older versions were not checked.
tests/contract/test_runpod.py has a test for each.

| replaced                      | why                                             | until          |
| ----------------------------- | ----------------------------------------------- | -------------- |
| `rp_scale.get_job`            | takes jobs during a drain; a full worker checks | SDK 2, which   |
|                               | for a free slot only once a second; a job in    | dispatches by  |
|                               | the SDK's own queue counts twice                | events         |
| `rp_scale.get_stop_signals`   | loses the stop signal of a job that has not     | SDK 2          |
|                               | started; polls a closed connection for ever     |                |
| `rp_scale.JobScaler.run_jobs` | starts a job up to 0.1 s after its poll         | SDK 2          |
| `rp_scale.AsyncClientSession` | loses all jobs of a poll if one is nested too   | SDK 2          |
|                               | deeply for Python's JSON decoder                |                |
| `rp_http._transmit`           | loses a chunk when a connection breaks          | it retries, at |
|                               | (`delivery`), takes 3.8 times the CPU time      | less CPU time  |
|                               | (`connections`)                                 |                |
| `cpuinfo.get_cpu_info` while  | a debug figure of the SDK: it starts a process  | it looks when  |
| the SDK is imported           | that measures the processor for a second        | it is asked    |

| called or read                | why                                             | until          |
| ----------------------------- | ----------------------------------------------- | -------------- |
| `JobsProgress.get_job_count`  | `get_job` needs the number of taken jobs        | SDK 2          |
| `JobScaler.handle_job`,       | `run_jobs` needs them                           | SDK 2          |
| `.is_alive`, `.jobs_queue`,   |                                                 |                |
| `.jobs_tasks`,                |                                                 |                |
| `.job_progress`               |                                                 |                |
| `rp_http.send_result`         | `progress_update` posts from a thread, so the   | it can be      |
|                               | last progress could arrive after the job's end  | awaited        |
| handlers and level of the     | importing the SDK changes them                  | it leaves them |
| root logger                   |                                                 |                |
"""

import asyncio
import functools
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.request.json_text import loads
from handler.settings.environ import log_level_of

POLL_INTERVAL_SECONDS = 0.1

# The SDK reads these at import. Its checks of GPU and disk take seconds, and can create a CUDA
# context in this process.
SDK_ENVIRONMENT = {
    "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
    "RUNPOD_SKIP_GPU_CHECK": "true",
}
LOG_LEVEL = "RUNPOD_LOG_LEVEL"
# The SDK's default is DEBUG, which prints every chunk. The worker itself logs one line per job.
SDK_LOG_LEVELS = {
    "DEBUG": "DEBUG",
    "INFO": "WARN",
    "WARNING": "WARN",
    "ERROR": "ERROR",
    "CRITICAL": "ERROR",  # the SDK's highest
}


def sdk_environment(log_level: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the SDK reads at import; RUNPOD_LOG_LEVEL overrides `log_level`.

    Raises:
        InvalidSetting: RUNPOD_LOG_LEVEL is invalid.
    """
    own = environ.get(LOG_LEVEL, "").upper()
    if own in ("", "NONE", "NULL"):
        level = SDK_LOG_LEVELS[log_level]
    elif own in ("NOTSET", "TRACE"):
        level = own
    else:
        level = log_level_of(environ, LOG_LEVEL, log_level)
        level = "INFO" if level == "INFO" else SDK_LOG_LEVELS[level]
    return {**SDK_ENVIRONMENT, LOG_LEVEL: level}


def processor_name(cpuinfo_file: Path = Path("/proc/cpuinfo")) -> str:
    """Return the kernel's name of the processor, "unknown" where it has none, as on Arm."""
    found = re.search(r"^model name\s*: (.+)$", cpuinfo_file.read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def import_sdk() -> None:
    """Import the SDK; call it while the engine loads."""
    root = logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    import cpuinfo  # type: ignore[import-untyped]

    get_cpu_info = cpuinfo.get_cpu_info
    cpuinfo.get_cpu_info = lambda: {"brand_raw": processor_name()}
    try:
        import runpod.serverless  # noqa: F401
    finally:
        cpuinfo.get_cpu_info = get_cpu_info
    root.handlers[:] = handlers  # the SDK's handler would repeat every library's log
    root.setLevel(root_level)


@dataclass(frozen=True)
class SdkHooks:
    """The worker's functions that the replaced functions call.

    Attributes:
        free_slots: returns the number of jobs to take, given the number of the SDK's jobs.
        slot_freed: waits until a slot may be free.
        jobs_taken: called with the jobs of one poll.
        jobs_stopped: called with the job ids of one stop signal.
        job_cancelled: called with the id of a job that was cancelled before its first step.
        transmit: posts a result, see `Delivery.transmit`.
    """

    free_slots: Callable[[int], int]
    slot_freed: Callable[[], Awaitable[object]]
    jobs_taken: Callable[[list[dict[str, Any]]], object]
    jobs_stopped: Callable[[list[str]], object]
    job_cancelled: Callable[[str], object]
    transmit: Callable[..., Awaitable[None]]


def patch_sdk(hooks: SdkHooks) -> None:
    """Replace the functions in the table above."""
    from runpod.serverless.modules import rp_http, rp_scale
    from runpod.serverless.modules.worker_state import JobsProgress

    sdk_get_job, sdk_get_stop_signals = rp_scale.get_job, rp_scale.get_stop_signals
    in_progress = JobsProgress()

    async def get_job(session: Any, _: int = 1) -> list[dict[str, Any]]:
        free = hooks.free_slots(in_progress.get_job_count())
        if free <= 0:
            await hooks.slot_freed()
            return []  # the SDK calls again, with its full timeout for the poll
        jobs = list(await sdk_get_job(session, free) or [])
        hooks.jobs_taken(jobs)
        return jobs

    async def get_stop_signals(session: Any) -> list[str]:
        if session.closed:
            # The SDK's loop has ended, but an error of the closed connection replaced this poll's
            # cancellation. Without another cancellation the SDK would poll for ever.
            raise asyncio.CancelledError
        names: list[str] = await sdk_get_stop_signals(session)
        hooks.jobs_stopped(names)
        return names

    async def run_jobs(scaler: Any, session: Any) -> None:
        await start_jobs(scaler, session, hooks.job_cancelled)

    rp_scale.get_job, rp_scale.get_stop_signals = get_job, get_stop_signals
    rp_scale.JobScaler.run_jobs = run_jobs
    rp_scale.AsyncClientSession = functools.partial(
        rp_scale.AsyncClientSession, response_class=_deep_response()
    )
    rp_http._transmit = hooks.transmit


def _deep_response() -> type[Any]:
    """Return aiohttp's response class, but for JSON of any depth; the parser rejects deep jobs."""
    from aiohttp import ClientResponse

    class DeepResponse(ClientResponse):
        async def json(self, **named: Any) -> Any:
            return await super().json(**{"loads": loads, **named})

    return DeepResponse


async def start_jobs(scaler: Any, session: Any, job_cancelled: Callable[[str], object]) -> None:
    """Start each job at once; replaces `JobScaler.run_jobs`.

    Args:
        scaler: the SDK's JobScaler.
        session: the SDK's aiohttp session.
        job_cancelled: called with the id of a job that was cancelled before its first step; the
            SDK's own clean-up does not run then.
    """
    tasks: set[asyncio.Task[None]] = set()

    def ended(job: dict[str, Any], task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if scaler.jobs_tasks.get(job["id"]) is task:
            del scaler.jobs_tasks[job["id"]]
            scaler.job_progress.remove(job)
            scaler.jobs_queue.task_done()
            job_cancelled(job["id"])

    while scaler.is_alive() or not scaler.jobs_queue.empty():
        try:
            job = await asyncio.wait_for(scaler.jobs_queue.get(), POLL_INTERVAL_SECONDS)
        except TimeoutError:
            continue  # checks is_alive again
        task = asyncio.create_task(scaler.handle_job(session, job))
        scaler.jobs_tasks[job["id"]] = task
        tasks.add(task)
        task.add_done_callback(functools.partial(ended, job))
    await asyncio.gather(*tasks, return_exceptions=True)


async def post_progress(job: Mapping[str, Any], progress: Mapping[str, int]) -> None:
    """Post a job's progress and wait for the response.

    The SDK's `progress_update` posts from another thread. Its last POST could arrive after the end
    of the job, and the connections of `delivery` belong to this event loop.
    """
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules.rp_http import send_result

    async with AsyncClientSession() as session:
        await send_result(session, {"status": "IN_PROGRESS", "output": progress}, job)
