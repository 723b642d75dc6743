"""The jobs that a worker keeps, without an engine."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from handler.errors import UnknownJob
from handler.serve.http.admission import AdmissionQueue
from handler.serve.http.jobs import HttpJobs


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


def test_a_cancelled_job_that_still_tidies_up_is_not_forgotten():
    """The drain waits for it."""

    async def run():
        worker = TidyingWorker()
        jobs = HttpJobs(worker, AdmissionQueue(2, 0), max_kept_jobs=1)
        slow = jobs.submit(b'{"input": "slow"}', 60)
        await worker.started.wait()
        await jobs.cancel(slow)
        quick = jobs.submit(b'{"input": "quick"}', 60)
        await quick.wait_until_finished(60)
        await asyncio.wait([quick.task])
        with pytest.raises(UnknownJob):
            jobs.get(quick.id)
        kept = jobs.get(slow.id), jobs.unfinished
        worker.may_end.set()
        await asyncio.wait([slow.task])
        return kept == (slow, 1), jobs.unfinished

    assert asyncio.run(run()) == (True, 0)
