"""The queue front end: the Runpod SDK takes jobs and calls the worker's generator.

The SDK runs on the main thread with its own event loop. The worker adds an earlier start of jobs
(`jobs`), a drain on SIGTERM (`drain`), and an exit code for the engine's death.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvloop

from handler.errors import EngineDied
from handler.serve.queue.delivery import Delivery, OnPost
from handler.serve.queue.drain import Drain
from handler.serve.queue.jobs import QueueJobs
from handler.serve.queue.sdk_patches import SdkHooks, patch_sdk, post_progress
from handler.serve.worker import Worker


class QueueFrontEnd:
    """Serves the platform's queue until SIGTERM, SIGINT or the engine's death.

    Args:
        max_jobs: concurrent jobs; constant, because the SDK can change it only without jobs.
        drain_timeout_seconds: the limit for running jobs after SIGTERM.
        on_first_poll: called before the first poll for jobs.
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
        """Run jobs until the shutdown.

        Raises:
            EngineDied: the engine died; all running jobs have failed.
        """
        import runpod.serverless

        jobs = QueueJobs(worker)
        drain = Drain(worker, jobs, self._drain_timeout_seconds)

        def free_slots(taken: int) -> int:
            return drain.allowed_jobs(self._max_jobs - taken)

        def concurrency(_: int) -> int:
            if drain.on_poll():
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
        # The SDK parses sys.argv, which has no options of the worker in queue mode.
        with contextlib.suppress(asyncio.CancelledError):  # `Drain` ends the SDK's loop this way
            runpod.serverless.start(
                {
                    "handler": jobs.handle,
                    "concurrency_modifier": concurrency,
                    "return_aggregate_stream": True,
                }
            )
        if worker.runtime.dead:
            raise EngineDied("The engine died. The platform must replace this worker.")
