"""The end of the queue, without the SDK and without an engine."""

import asyncio
import os
import signal
from types import SimpleNamespace

import pytest

from handler.serve.queue.drain import Drain
from handler.serve.queue.jobs import QueueJobs


def drain_of(deaths, *, timeout_seconds=1.0, last_output_grace_seconds=1.0):
    """Return a drain without jobs; what is to be called at the engine's death goes to `deaths`."""
    runtime = SimpleNamespace(dead=False, on_death=deaths.append)
    worker = SimpleNamespace(runtime=runtime, last_output_grace_seconds=last_output_grace_seconds)
    return Drain(worker, QueueJobs(worker), timeout_seconds=timeout_seconds)


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


def test_each_further_signal_ends_a_wait():
    """The second fails the jobs that run, the third does not wait for their errors."""
    drain = drain_of([], timeout_seconds=3600.0, last_output_grace_seconds=3600.0)
    failed, polling = asyncio.Event(), asyncio.Event()
    drain._runtime.fail_requests = lambda _: failed.set()

    async def poll():
        drain.on_poll()
        polling.set()
        await asyncio.Event().wait()

    async def run():
        job = asyncio.create_task(asyncio.Event().wait())
        drain._jobs.tasks.add(job)
        polls = asyncio.create_task(poll())
        await polling.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        while not drain.has_begun:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await failed.wait()
        ended_by_second = polls.done()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait([polls])
        job.cancel()
        return ended_by_second, polls.cancelled()

    assert asyncio.run(run()) == (False, True)
