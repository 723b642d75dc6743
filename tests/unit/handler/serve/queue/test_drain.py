"""The end of the queue, without the SDK and without an engine."""

import asyncio
import os
import signal
from types import SimpleNamespace

import pytest

from handler.serve.queue.drain import Drain
from handler.serve.queue.jobs import QueueJobs


def drain_of(deaths):
    """Return a drain without jobs; what is to be called at the engine's death goes to `deaths`."""
    runtime = SimpleNamespace(dead=False, on_death=deaths.append)
    worker = SimpleNamespace(runtime=runtime, last_output_grace_seconds=1.0)
    return Drain(worker, QueueJobs(worker), timeout_seconds=1.0)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "the engine's death"])
def test_no_job_is_taken_after_the_end_has_begun_and_the_poll_is_cancelled(end):
    deaths = []
    drain = drain_of(deaths)
    polling = asyncio.Event()

    async def poll():
        assert drain.on_poll()
        assert not drain.on_poll()
        polling.set()
        await asyncio.Event().wait()

    async def run():
        task = asyncio.create_task(poll())
        await polling.wait()
        before = drain.allowed_jobs(3)
        if end.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[end])
        else:
            [notify] = deaths
            notify()
        await asyncio.wait([task])
        return before, drain.allowed_jobs(3), task.cancelled()

    assert asyncio.run(run()) == (3, 0, True)
