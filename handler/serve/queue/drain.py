"""The drain of the queue, after SIGTERM, SIGINT or the engine's death. A second signal ends it.

The SDK's own shutdown waits up to 90 s for its open polls, and loses a job that arrives with one.
"""

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import Callable
from typing import Any

from handler.engine.awake_clock import AwakeTimeout
from handler.logs import pluralize
from handler.serve.queue.jobs import QueueJobs
from handler.serve.worker import LAST_OUTPUT_GRACE_SECONDS, Worker

log = logging.getLogger(__name__)

CANCEL_RETRY_INTERVAL_SECONDS = 0.1


class Drain:
    """Waits for running jobs, fails the rest, then ends the SDK's loop.

    Args:
        timeout_seconds: the limit for running jobs after a signal.
        on_start: called with the drain's task.

    Attributes:
        loop: the SDK's event loop, None before its first poll.
    """

    def __init__(
        self,
        worker: Worker,
        jobs: QueueJobs,
        timeout_seconds: float,
        on_start: Callable[[asyncio.Task[None]], object] = lambda _: None,
    ) -> None:
        self._worker = worker
        self._runtime = worker.runtime
        self._jobs = jobs
        self._timeout_seconds = timeout_seconds
        self.loop: asyncio.AbstractEventLoop | None = None
        self._poll: asyncio.Task[Any] | None = None
        self._drain: asyncio.Task[None] | None = None
        self._second_signal = asyncio.Event()
        self._on_start = on_start
        self._runtime.on_death(self._engine_died)

    @property
    def has_begun(self) -> bool:
        return self._drain is not None

    def allowed_jobs(self, free_slots: int) -> int:
        """Return the number of jobs that may be taken: 0 after the drain has begun."""
        return 0 if self.has_begun else free_slots

    def on_poll(self) -> bool:
        """Store the SDK's poll task; return whether this is the first poll.

        The SDK calls it before each poll. The first call replaces the SDK's signal handlers, which
        do not exist earlier.
        """
        self._poll = asyncio.current_task()
        if self.loop is not None:
            return False
        self.loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._signalled, signal.Signals(number).name)
        if self._runtime.dead:
            self._begin(LAST_OUTPUT_GRACE_SECONDS)
        return True

    def _signalled(self, name: str) -> None:
        running = len(self._jobs.tasks)
        if self.has_begun:
            log.warning("%s again: no more waiting for %s", name, pluralize(running, "job"))
            self._second_signal.set()
            return
        waiting = f"waiting for {pluralize(running, 'job')}"
        log.info("%s: %s", name, waiting if running else "no job is running")
        self._begin(self._timeout_seconds)

    def call_on_loop(self, call: Callable[[], object]) -> None:
        """Call on the SDK's event loop, if it runs; for any thread."""
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self.loop.call_soon_threadsafe(call)

    def _engine_died(self) -> None:
        self.call_on_loop(functools.partial(self._begin, LAST_OUTPUT_GRACE_SECONDS))

    def _begin(self, timeout_seconds: float) -> None:
        if self._drain is None:
            self._drain = asyncio.get_running_loop().create_task(self._run(timeout_seconds))
            self._on_start(self._drain)

    async def _run(self, timeout_seconds: float) -> None:
        """Wait for running jobs, fail the rest, and end the SDK's loop."""
        await self._wait_for_jobs(timeout_seconds)
        if self._jobs.tasks:
            if not self._second_signal.is_set():
                unfinished = pluralize(len(self._jobs.tasks), "job")
                log.warning("%s did not finish in %g s", unfinished, timeout_seconds)
            self._second_signal.clear()
            self._runtime.fail_requests("The worker was stopped before the response was complete.")
            await self._wait_for_jobs(self._worker.last_output_grace_seconds)
        while self._poll is not None and not self._poll.done():
            # Repeated, because the SDK polls in Python 3.11's wait_for, which loses a cancellation
            # that arrives together with the poll's response.
            self._poll.cancel()
            await asyncio.sleep(CANCEL_RETRY_INTERVAL_SECONDS)

    async def _wait_for_jobs(self, timeout_seconds: float) -> None:
        """Wait until all jobs have ended, until the timeout, or until a second signal."""
        jobs_ended = asyncio.ensure_future(self._jobs.all_ended())
        second_signal = asyncio.ensure_future(self._second_signal.wait())
        with contextlib.suppress(TimeoutError):
            async with AwakeTimeout(timeout_seconds):
                await asyncio.wait((jobs_ended, second_signal), return_when=asyncio.FIRST_COMPLETED)
        for waiter in (jobs_ended, second_signal):
            waiter.cancel()
