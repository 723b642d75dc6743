"""The jobs that a worker keeps, without an engine."""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import pytest

from handler.errors import UnknownJob
from handler.serve.http.admission import AdmissionQueue
from handler.serve.http.jobs import HttpJob, HttpJobs


class TidyingWorker:
    """Stands for a worker whose job takes its time to end: a cancelled batch saves its results."""

    def __init__(self):
        self.started, self.may_end = asyncio.Event(), asyncio.Event()

    def recorded(self, _):
        return contextlib.nullcontext(SimpleNamespace(outcome="done"))

    async def outputs(self, job, *_, **__):
        if job["input"] == "slow":
            try:
                self.started.set()
                await asyncio.Event().wait()
            finally:
                await self.may_end.wait()
        yield {}


async def submit(jobs, data):
    async def parsed():
        return HttpJob(data, None, None)

    return await jobs.submit(parsed(), 60)


def test_a_cancelled_job_that_still_tidies_up_is_not_forgotten():
    """The drain waits for it."""

    async def run():
        worker = TidyingWorker()
        jobs = HttpJobs(worker, AdmissionQueue(2, 0), max_kept_jobs=1)
        slow = await submit(jobs, "slow")
        await worker.started.wait()
        await jobs.cancel(slow)
        quick = await submit(jobs, "quick")
        await quick.wait_until_finished(60)
        await asyncio.wait([quick.task])
        with pytest.raises(UnknownJob):
            jobs.get(quick.id)
        kept = jobs.get(slow.id), jobs.unfinished
        worker.may_end.set()
        await asyncio.wait([slow.task])
        return kept == (slow, 1), jobs.unfinished

    assert asyncio.run(run()) == (True, 0)


class EndingWorker:
    """Stands for a worker whose job ends by an exception that is not an error of the request."""

    def __init__(self, error, begins=True):
        self._error, self._begins = error, begins

    def recorded(self, _):
        if not self._begins:
            raise self._error
        return contextlib.nullcontext(SimpleNamespace(outcome="failed"))

    async def outputs(self, *_, **__):
        yield {}
        raise self._error


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        (EndingWorker(RuntimeError("planned"), begins=False), "The worker failed on this request"),
        (EndingWorker(RuntimeError("planned")), "The worker failed on this request"),
        (EndingWorker(asyncio.CancelledError()), "The job was interrupted before it was complete"),
    ],
    ids=["before it begins", "later", "cancelled by another"],
)
def test_a_job_whose_task_ends_by_an_exception_has_failed(worker, message):
    """Who waits for it does not wait for ever."""

    async def run():
        job = await submit(HttpJobs(worker, AdmissionQueue(2, 0)), "text")
        await job.wait_until_finished(60)
        await asyncio.wait([job.task])
        return job

    job = asyncio.run(run())
    assert job.state == "FAILED"
    assert json.loads(job.error)["error"]["message"].startswith(message)
