"""The SDK's jobs: what is left of one that is cancelled."""

import asyncio
import contextlib
from types import SimpleNamespace

from handler.serve.queue.job_take import LARGE, REFUSED
from handler.serve.queue.jobs import QueueJobs


def test_the_generators_of_a_cancelled_job_are_closed_at_once():
    """The SDK still holds the outer one, which stands at a yield: a POST is under way."""

    async def cancel_in_a_post():
        posting, closed = asyncio.Event(), asyncio.Event()

        async def outputs(*_, **__):
            try:
                yield "chunk"
            finally:
                closed.set()

        worker = SimpleNamespace(
            outputs=outputs, recorded=lambda _: contextlib.nullcontext(SimpleNamespace())
        )
        held = QueueJobs(worker).handle({"id": "job-1", "input": {}})

        async def run():
            async for _ in held:
                posting.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(run())
        await posting.wait()
        task.cancel()
        await asyncio.wait({task})
        async with asyncio.timeout(5):
            await closed.wait()

    asyncio.run(cancel_in_a_post())


def test_a_job_that_was_taken_and_not_started_is_waited_for():
    """Also a batch or a large job, of which nothing is sent before its start."""

    async def run():
        record = SimpleNamespace(failed=lambda _: None)
        worker = SimpleNamespace(
            prepare=None, recorded=lambda _: contextlib.nullcontext(record), released=lambda _: None
        )
        jobs = QueueJobs(worker)
        taken = [
            {"id": "batch", "input": {"batch": []}},
            {"id": "large", "input": {}, LARGE: 20_000_000},
            {"id": "never starts", "input": None, REFUSED: "planned"},
        ]
        jobs.taken(taken)
        for job in taken[:2]:
            assert jobs.busy
            await anext(jobs.handle(job | {REFUSED: "planned"}))
        running = asyncio.current_task()
        assert running in jobs.tasks
        jobs.tasks.clear()
        assert jobs.busy
        jobs.dropped("never starts")
        assert not jobs.busy

    asyncio.run(run())


def test_a_job_that_ends_before_the_first_step_of_waiting_ends_the_wait():
    """Otherwise a full worker whose only job has just failed would never poll again."""

    async def run():
        jobs = QueueJobs(SimpleNamespace())
        waiting = asyncio.ensure_future(jobs.wait_for_end())
        jobs.dropped("a")
        await asyncio.wait({waiting}, timeout=5)
        assert waiting.done()

    asyncio.run(run())
