"""The start of jobs in place of the SDK's own loop."""

import asyncio
import json

import pytest

from handler.errors import render
from handler.serve.queue.job_start import (
    POLL_INTERVAL_SECONDS,
    fail_unstarted,
    start_jobs,
)


class Scaler:
    """What `start_jobs` uses of the SDK's JobScaler, which tests/contract/test_runpod.py pins."""

    def __init__(self):
        self.jobs_queue = asyncio.Queue()
        self.jobs_tasks = {}
        self.job_progress = self
        self.alive, self.removed = True, []
        self.started, self.may_end = [], asyncio.Event()

    def is_alive(self):
        return self.alive

    async def handle_job(self, session, job):
        try:
            self.started.append((session, job["id"]))
            await self.may_end.wait()
            if job["id"] == "broken":
                raise RuntimeError("which the SDK has logged")
        finally:
            self.jobs_queue.task_done()
            del self.jobs_tasks[job["id"]]

    def remove(self, job):
        self.removed.append(job["id"])


def test_jobs_start_as_they_arrive_and_all_are_awaited():
    """A job does not wait for another one; one on which the SDK fails stops nothing, and fails."""

    async def run():
        scaler, dropped, failed = Scaler(), [], []

        async def fail_job(session, job, error):
            failed.append((session, job["id"], str(error)))

        unstarted = {name: {"id": name} for name in ("broken", "a", "b", "on its way")}
        running = asyncio.create_task(
            start_jobs(scaler, "session", unstarted, dropped.append, fail_job)
        )
        for number, name in enumerate(["broken", "a", "b"], 1):
            scaler.jobs_queue.put_nowait({"id": name})
            while len(scaler.started) < number:
                await asyncio.sleep(0)
        assert scaler.started == [("session", name) for name in scaler.jobs_tasks]
        assert list(unstarted) == ["on its way"]
        scaler.alive = False
        await asyncio.sleep(2 * POLL_INTERVAL_SECONDS)
        assert not running.done()
        scaler.may_end.set()
        await running
        assert dropped == ["broken"]
        assert failed == [("session", "broken", "which the SDK has logged")]

    asyncio.run(run())


def test_a_job_that_is_cancelled_before_its_first_step_is_removed():
    """The SDK's own clean-up does not run then."""

    async def run():
        scaler, dropped = Scaler(), []
        running = asyncio.create_task(start_jobs(scaler, "session", {}, dropped.append, None))
        scaler.jobs_queue.put_nowait({"id": "a"})
        while not scaler.jobs_tasks:
            await asyncio.sleep(0)
        scaler.jobs_tasks["a"].cancel()
        await scaler.jobs_queue.join()
        assert (scaler.started, scaler.jobs_tasks, scaler.removed) == ([], {}, ["a"])
        assert dropped == ["a"]
        scaler.alive = False
        await running

    asyncio.run(run())


def test_jobs_that_were_taken_and_not_started_fail():
    """Also one that is not yet in the SDK's queue, or was lost when its loop was cancelled."""
    sent, dropped = [], []

    async def fail_job(session, job, error):
        sent.append((session, job["id"], json.loads(render(error))["error"]["code"]))

    unstarted = {"a": {"id": "a"}, "b": {"id": "b"}}
    asyncio.run(fail_unstarted("session", unstarted, dropped.append, fail_job))
    assert sorted(sent) == [("session", "a", 503), ("session", "b", 503)]
    assert (sorted(dropped), unstarted) == (["a", "b"], {})


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_cancellation_that_comes_with_a_job_ends_the_start_of_jobs(turns):
    """The job is started, or stays unstarted so that it is failed; never both."""

    async def run():
        scaler, unstarted = Scaler(), {"a": {"id": "a"}}
        running = asyncio.create_task(start_jobs(scaler, "session", unstarted, None, None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        scaler.jobs_queue.put_nowait({"id": "a"})
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running], timeout=5)
        assert running.cancelled()
        assert [*unstarted, *scaler.jobs_tasks] == ["a"]
        scaler.may_end.set()

    asyncio.run(run())
