"""Replaced functions of the Runpod SDK, which has no hooks for these purposes.

All rows are needed since SDK 1.12.0; older versions were not checked.
tests/contract/test_runpod.py has a test for each.

| replaced                      | why                                             | until          |
| ----------------------------- | ----------------------------------------------- | -------------- |
| `rp_scale.get_job`            | takes jobs during a drain; a full worker checks | SDK 2, which   |
|                               | for a free slot only once a second; a job in    | dispatches by  |
|                               | the SDK's own queue counts twice; loses all     | events         |
|                               | jobs of a poll if one is nested too deeply, or  |                |
|                               | has no id (`job_take`); no pause after errors   |                |
| `rp_scale.get_stop_signals`   | loses the stop signal of a job that has not     | SDK 2          |
|                               | started; after a freeze it and `get_job` wait   |                |
|                               | on a dead connection (`long_poll`)              |                |
| `rp_scale.JobScaler.run`      | lives on when one of its loops ended            | it ends then   |
|                               | (`sdk_loops`)                                   |                |
| `JobScaler.jobs_fetcher_`     | go on while the worker is frozen, and then lose | they stop then |
| `timeout`,                    | the answer to a poll                            |                |
| `.stop_signals_fetcher_`      |                                                 |                |
| `timeout`                     |                                                 |                |
| `rp_scale.JobScaler.run_jobs` | starts a job up to 0.1 s after its poll; a job  | SDK 2          |
|                               | whose task fails never ends (`job_start`)       |                |
| `rp_scale.handle_job`         | formats each output for its debug log, has the  | it retries, at |
|                               | ids of all jobs in one session's headers        | less CPU time  |
|                               | (`job_run`); loses a chunk when a connection    |                |
|                               | breaks (`delivery`); takes 3.8 times the CPU    |                |
|                               | time for a POST (`connections`)                 |                |
| `rp_logger.RunPodLogger.log`  | repeats a line without a bound                  | it has a bound |
|                               | (`repeated_lines`)                              |                |
| `rp_ping.Process`             | nobody notices that the process of pings has    | it is started  |
|                               | ended (`ping_process`); after a freeze it waits | again          |
|                               | on a dead connection                            |                |
| `cpuinfo.get_cpu_info` while  | a debug figure of the SDK: it starts a process  | it looks when  |
| the SDK is imported           | that measures the processor for a second        | it is asked    |

| called or read                | why                                             | until          |
| ----------------------------- | ----------------------------------------------- | -------------- |
| `rp_http.JOB_STREAM_URL`,     | `job_run` posts to them                         | the row of     |
| `.JOB_DONE_URL`               |                                                 | `handle_job`   |
|                               |                                                 | goes           |
| `rp_job._job_get_url`         | `get_job` needs the URL of its poll             | SDK 2          |
| `http_client.get_auth_header` | the polls have sessions of their own            | SDK 2          |
| `JobsProgress.get_job_count`, | `get_job` needs the number of taken jobs, and   | SDK 2          |
| its elements of type `Job`    | whether one of this id was taken                |                |
| `JobScaler.get_jobs`,         | `run` needs them                                | SDK 2          |
| `.monitor_stop_signals`       |                                                 |                |
| `JobScaler.handle_job`,       | `run_jobs` needs them                           | SDK 2          |
| `.is_alive`, `.jobs_queue`,   |                                                 |                |
| `.jobs_tasks`,                |                                                 |                |
| `.job_progress`               |                                                 |                |
| `Heartbeat._mirror`,          | `ping_process` runs the SDK's loop of pings     | the row of     |
| `._session`, `._send_ping`,   |                                                 | `Process` goes |
| `.ping_loop`,                 |                                                 |                |
| `.PING_INTERVAL`              |                                                 |                |
| handlers and level of the     | importing the SDK changes them                  | it leaves them |
| root logger                   |                                                 |                |
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.serve.queue.connections import CONNECT_TIMEOUT_SECONDS
from handler.serve.queue.job_start import FailJob, fail_unstarted, start_jobs
from handler.serve.queue.job_take import JobTake
from handler.serve.queue.long_poll import LongPoll
from handler.serve.queue.ping_process import PingProcess
from handler.serve.queue.repeated_lines import RepeatedLines, bound_sdk_log
from handler.serve.queue.sdk_loops import SdkLoops
from handler.settings.environ import log_level_of

log = logging.getLogger(__name__)

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
        job_dropped: called with the id of a job that ended before the worker's generator began.
        run_job, fail_job: see `JobRunner`.
        decode: decodes the answer of a poll, see `JobDecoder.decode`.
    """

    free_slots: Callable[[int], int]
    slot_freed: Callable[[], Awaitable[object]]
    jobs_taken: Callable[[list[dict[str, Any]]], object]
    jobs_stopped: Callable[[list[str]], object]
    job_dropped: Callable[[str], object]
    run_job: Callable[..., Awaitable[None]]
    fail_job: FailJob
    decode: Callable[[bytes], Awaitable[Any]]


def patch_sdk(hooks: SdkHooks, sdk_loops: SdkLoops, lines: RepeatedLines) -> Callable[[], None]:
    """Replace the functions in the table above.

    Args:
        hooks: the worker's functions.
        sdk_loops: runs the SDK's loops.
        lines: bounds the SDK's log.

    Returns:
        A function that sends the polls again over new connections; for the SDK's event loop.
    """
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules import rp_job, rp_logger, rp_ping, rp_scale
    from runpod.serverless.modules.worker_state import Job, JobsProgress

    sdk_get_stop_signals = rp_scale.get_stop_signals
    in_progress, pings = JobsProgress(), PingProcess()
    unstarted: dict[str, dict[str, Any]] = {}
    job_take = JobTake(rp_job._job_get_url, lambda name: Job(id=name) in in_progress, hooks.decode)
    jobs_poll = LongPoll(job_take.take, _poll_session)
    stop_poll = LongPoll[str](lambda session, _: sdk_get_stop_signals(session), _poll_session)

    async def get_job(_: Any, __: int = 1) -> list[dict[str, Any]]:
        free = hooks.free_slots(in_progress.get_job_count())
        jobs = await jobs_poll.next(free, or_until=None if free > 0 else hooks.slot_freed)
        unstarted.update((job["id"], job) for job in jobs)
        hooks.jobs_taken(jobs)
        return jobs

    async def get_stop_signals(_: Any) -> list[str]:
        names = await stop_poll.next(1)
        hooks.jobs_stopped(names)
        return names

    def wake() -> None:
        jobs_poll.wake()
        stop_poll.wake()

    async def run_jobs(scaler: Any, session: Any) -> None:
        await start_jobs(scaler, session, unstarted, hooks.job_dropped, hooks.fail_job)

    async def run(scaler: Any) -> None:
        # The polls have timeouts of their own. The SDK's would lose an answer that arrived while
        # the worker was frozen, and in Python 3.11 a cancellation that comes with an answer.
        scaler.jobs_fetcher_timeout = scaler.stop_signals_fetcher_timeout = None
        async with AsyncClientSession() as session:

            async def end() -> None:
                unstarted.update((job["id"], job) for job in await jobs_poll.close())
                await stop_poll.close()
                await fail_unstarted(session, unstarted, hooks.job_dropped, hooks.fail_job)

            loops = {
                "loop that takes jobs": scaler.get_jobs(session),
                "loop that starts jobs": scaler.run_jobs(session),
                "loop that takes stop signals": scaler.monitor_stop_signals(session),
            }
            beside = {"process of pings": pings.keep_running()}
            await sdk_loops.run(loops, end, beside=beside)

    rp_scale.get_job, rp_scale.get_stop_signals = get_job, get_stop_signals
    rp_scale.handle_job = hooks.run_job
    rp_scale.JobScaler.run_jobs = run_jobs
    rp_scale.JobScaler.run = run
    rp_ping.Process = pings.make
    bound_sdk_log(rp_logger.RunPodLogger, lines)
    return wake


def _poll_session() -> Any:
    """Return a session for polls: the SDK's, without its timeout, which goes on in a freeze."""
    import aiohttp
    from runpod.http_client import get_auth_header

    return aiohttp.ClientSession(
        headers=get_auth_header(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_SECONDS),
    )
