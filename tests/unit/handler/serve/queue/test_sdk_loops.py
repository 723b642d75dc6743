"""The end of the worker when a task of the queue ends by an exception."""

import asyncio

import pytest

from handler.errors import LoopFailed
from handler.serve.queue.sdk_loops import SdkLoops
from handler.supervisor import Supervisor


async def forever():
    await asyncio.Event().wait()


async def broken():
    raise KeyError("id")


def run(loops, watched=None, beside=None, thread=None):
    """Run the loops; return what was called, the loops that were cancelled, and the error."""
    called, cancelled = [], []

    async def fail(what):
        called.append(what)

    async def noted(name, loop):
        try:
            await loop()
        except asyncio.CancelledError:
            cancelled.append(name)
            raise

    async def main():
        supervisor = Supervisor()
        running = SdkLoops(supervisor, lambda: fail("running jobs")).run(
            {name: noted(name, loop) for name, loop in loops.items()},
            lambda: fail("unstarted jobs"),
            beside={name: noted(name, each) for name, each in (beside or {}).items()},
        )
        task = asyncio.create_task(running)
        await asyncio.sleep(0)
        if watched is not None:
            supervisor.watch("drain", asyncio.create_task(watched()))
        if thread is not None:
            supervisor.thread("monitor", thread).start()
        await task

    try:
        asyncio.run(main())
    except (LoopFailed, asyncio.CancelledError) as error:
        return called, cancelled, error
    return called, cancelled, None


def broken_thread():
    raise KeyError("id")


@pytest.mark.parametrize(
    ("loops", "others", "name"),
    [
        ({"take": broken, "start": forever}, {}, "take"),
        ({"start": forever, "take": forever}, {"watched": broken}, "drain"),
        ({"start": forever}, {"beside": {"pings": broken}}, "pings"),
        ({"start": forever, "take": forever}, {"thread": broken_thread}, "monitor"),
    ],
    ids=["a loop of the SDK", "a task of the worker", "a task beside the loops", "a thread"],
)
def test_an_exception_fails_all_jobs_and_ends_the_other_loops(loops, others, name, caplog):
    called, cancelled, error = run(loops, **others)
    assert called == ["unstarted jobs", "running jobs"]
    assert cancelled == [name for name, loop in loops.items() if loop is forever]
    assert str(error) == (
        f"The worker's {name} ended by KeyError. The platform must replace this worker."
    )
    assert error.exit_code == 6
    assert [record.exc_info is not None for record in caplog.records] == [True, False]


def test_a_loop_that_is_cancelled_ends_the_others_without_an_error():
    """As the drain does at the end; what was taken and not started is failed."""

    async def cancelled_loop():
        raise asyncio.CancelledError

    called, cancelled, error = run({"take": cancelled_loop, "start": forever})
    assert (called, cancelled) == (["unstarted jobs"], ["take", "start"])
    assert type(error) is asyncio.CancelledError


def test_loops_that_return_are_awaited():
    """What runs beside them is not."""

    async def short():
        await asyncio.sleep(0)

    beside = {"pings": forever}
    called, cancelled, error = run({"take": short, "start": short}, beside=beside)
    assert (called, cancelled, error) == (["unstarted jobs"], ["pings"], None)


def test_unstarted_jobs_fail_after_the_loops_have_ended():
    """A loop that starts a job while it is cancelled would run a job that has failed."""
    order = []

    async def starts_jobs():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            order.append("loop ended")

    async def fail_unstarted():
        order.append("unstarted jobs")

    async def main():
        loops = {"take": broken(), "start": starts_jobs()}
        with pytest.raises(LoopFailed):
            await SdkLoops(Supervisor(), fail_unstarted).run(loops, fail_unstarted)

    asyncio.run(main())
    assert order == ["loop ended", "unstarted jobs", "unstarted jobs"]
