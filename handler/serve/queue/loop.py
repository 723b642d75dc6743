"""The queue front end: the Runpod SDK takes jobs and calls the worker's generator.

The SDK runs on the main thread with its own event loop. The worker adds an earlier start of jobs
(`jobs`), a drain on SIGTERM (`drain`), and an exit code for the engine's death.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvloop

from handler.engine.awake_clock import awake_clock
from handler.errors import EngineDied
from handler.serve.queue import delivery, job_run, job_take
from handler.serve.queue.delivery import Delivery, OnPost
from handler.serve.queue.drain import Drain
from handler.serve.queue.job_run import JobRunner
from handler.serve.queue.job_text import JobDecoder
from handler.serve.queue.jobs import QueueJobs
from handler.serve.queue.repeated_lines import RepeatedLines, RepeatedLinesFilter
from handler.serve.queue.sdk_loops import SdkLoops
from handler.serve.queue.sdk_patches import SdkHooks, patch_sdk
from handler.serve.worker import Worker
from handler.supervisor import Supervisor


class QueueFrontEnd:
    """Serves the platform's queue until SIGTERM, SIGINT or the engine's death.

    Args:
        max_jobs: concurrent jobs; constant, because the SDK can change it only without jobs.
        drain_timeout_seconds: the limit for running jobs after SIGTERM.
        on_first_poll: called before the first poll for jobs.
        on_post: see `Delivery`.
        supervisor: of the worker's threads and tasks.
    """

    def __init__(
        self,
        *,
        max_jobs: int,
        drain_timeout_seconds: float,
        on_first_poll: Callable[[], object],
        on_post: OnPost,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._max_jobs = max_jobs
        self._drain_timeout_seconds = drain_timeout_seconds
        self._on_first_poll = on_first_poll
        self._delivery = Delivery(on_post)
        self._runner = JobRunner(self._delivery)
        self._supervisor = supervisor or Supervisor()

    async def report_progress(self, job: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        await self._runner.report_progress(job, counts)

    def batch_line_slot(self) -> AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()  # the batch's own concurrency is the limit

    def serve(self, worker: Worker) -> None:
        """Run jobs until the shutdown.

        Raises:
            EngineDied: the engine died; all running jobs have failed.
            LoopFailed: a thread or task of the worker ended by an exception; likewise.
        """
        import runpod.serverless

        jobs = QueueJobs(worker)
        watch_drain = functools.partial(self._supervisor.watch, "drain")
        drain = Drain(worker, jobs, self._drain_timeout_seconds, watch_drain)
        fail_jobs = functools.partial(_fail_jobs, worker, jobs)
        wake_polls = patch_sdk(
            self._hooks(worker, jobs, drain),
            SdkLoops(self._supervisor, fail_jobs),
            _with_bounded_logs(),
        )

        def concurrency(_: int) -> int:
            if drain.on_poll():
                self._on_first_poll()
            return 2 * self._max_jobs + 1  # never full: `free_slots` is the limit

        def wake() -> None:
            wake_polls()
            self._delivery.connections.wake()

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        # The SDK parses sys.argv, which has no options of the worker in queue mode.
        with (
            awake_clock.ticking(self._supervisor, lambda: drain.call_on_loop(wake)),
            contextlib.suppress(asyncio.CancelledError),  # `Drain` ends the SDK's loop this way
        ):
            runpod.serverless.start(
                {
                    "handler": jobs.handle,
                    "concurrency_modifier": concurrency,
                    "return_aggregate_stream": True,
                }
            )
        if worker.runtime.dead:
            raise EngineDied("The engine died. The platform must replace this worker.")

    def _hooks(self, worker: Worker, jobs: QueueJobs, drain: Drain) -> SdkHooks:
        return SdkHooks(
            free_slots=lambda taken: drain.allowed_jobs(self._max_jobs - taken),
            slot_freed=jobs.wait_for_end,
            jobs_taken=jobs.taken,
            jobs_stopped=jobs.stop_early,
            job_dropped=jobs.dropped,
            run_job=functools.partial(self._runner.run, jobs.handle),
            fail_job=self._runner.fail,
            decode=JobDecoder(worker.parser.body_limits).decode,
        )


async def _fail_jobs(worker: Worker, jobs: QueueJobs) -> None:
    worker.runtime.fail_requests("The worker failed; it is being replaced.")
    await jobs.wait_for_all(worker.last_output_grace_seconds)


def _with_bounded_logs() -> RepeatedLines:
    """Bound the lines of the modules that talk to the platform; return the count of lines."""
    lines = RepeatedLines()
    repeats = RepeatedLinesFilter(lines)
    for module in (delivery, job_run, job_take):
        module.log.addFilter(repeats)
    return lines
