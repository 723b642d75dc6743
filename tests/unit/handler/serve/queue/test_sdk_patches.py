"""The start of jobs in place of the SDK's own loop."""

import asyncio

from handler.serve.queue.sdk_patches import POLL_INTERVAL_SECONDS, start_jobs


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
    """A job does not wait for another one, and one that fails stops nothing."""

    async def run():
        scaler, cancelled = Scaler(), []
        running = asyncio.create_task(start_jobs(scaler, "session", cancelled.append))
        for number, name in enumerate(["broken", "a", "b"], 1):
            scaler.jobs_queue.put_nowait({"id": name})
            while len(scaler.started) < number:
                await asyncio.sleep(0)
        assert scaler.started == [("session", name) for name in scaler.jobs_tasks]
        scaler.alive = False
        await asyncio.sleep(2 * POLL_INTERVAL_SECONDS)
        assert not running.done()
        scaler.may_end.set()
        await running
        assert cancelled == []

    asyncio.run(run())


def test_a_job_that_is_cancelled_before_its_first_step_is_removed():
    """The SDK's own clean-up does not run then."""

    async def run():
        scaler, cancelled = Scaler(), []
        running = asyncio.create_task(start_jobs(scaler, "session", cancelled.append))
        scaler.jobs_queue.put_nowait({"id": "a"})
        while not scaler.jobs_tasks:
            await asyncio.sleep(0)
        scaler.jobs_tasks["a"].cancel()
        await scaler.jobs_queue.join()
        assert (scaler.started, scaler.jobs_tasks, scaler.removed) == ([], {}, ["a"])
        assert cancelled == ["a"]
        scaler.alive = False
        await running

    asyncio.run(run())
