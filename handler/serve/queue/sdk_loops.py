"""The SDK's loops, and the end of the worker when one of them ends by itself.

The SDK runs three loops: one takes jobs, one starts them, one takes stop signals. When one ends by
an exception, the SDK closes its session under the other two, and they may repeat an error for ever.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from handler.supervisor import Supervisor

FailJobs = Callable[[], Awaitable[object]]

log = logging.getLogger(__name__)


class SdkLoops:
    """Runs the loops of the queue until one ends, or anything else that is supervised.

    Args:
        supervisor: watches the loops.
        fail_jobs: fails the running jobs, and waits until they have ended.
    """

    def __init__(self, supervisor: Supervisor, fail_jobs: FailJobs) -> None:
        self._supervisor = supervisor
        self._fail_jobs = fail_jobs

    async def run(
        self,
        loops: Mapping[str, Awaitable[object]],
        fail_unstarted: FailJobs,
        *,
        beside: Mapping[str, Awaitable[object]] | None = None,
    ) -> None:
        """Run the SDK's loops until they return or are cancelled.

        Args:
            loops: by their names in the log.
            fail_unstarted: called after the loops have ended; fails jobs that were taken and not
                started.
            beside: what runs as long as the loops.

        Raises:
            LoopFailed: a loop, or anything else that is supervised, ended by an exception.
            asyncio.CancelledError: a loop was cancelled, which `Drain` does.
        """
        failed = asyncio.get_running_loop().create_future()
        _set_on_failure(self._supervisor, failed)
        running = {asyncio.ensure_future(loop): name for name, loop in loops.items()}
        others = {asyncio.ensure_future(each): name for name, each in (beside or {}).items()}
        for task, name in (running | others).items():
            self._supervisor.watch(name, task)
        try:
            left = set(running)
            while left and not failed.done():
                await asyncio.wait({*left, failed}, return_when=asyncio.FIRST_COMPLETED)
                if any(task.cancelled() for task in running if task.done()):
                    raise asyncio.CancelledError
                left = {task for task in running if not task.done()}
        finally:
            for task in running | others:
                task.cancel()
            await asyncio.wait(running | others)
            if failed.done():
                log.error("%s: running jobs fail, and the worker ends", self._supervisor.failure)
            await fail_unstarted()
        if failed.done():
            await self._fail_jobs()
            self._supervisor.check()


def _set_on_failure(supervisor: Supervisor, failed: "asyncio.Future[None]") -> None:
    loop = failed.get_loop()

    def set_result() -> None:
        if not failed.done():
            failed.set_result(None)

    def notify() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(set_result)

    supervisor.on_failure(notify)
