"""The worker's generator and the engine's runtime where the engine fails, hangs or dies."""

import asyncio
import json
import logging
import subprocess
import threading

import pytest

from handler.engine.runtime import EngineRuntime
from handler.errors import EngineStartFailed, InvalidSetting
from handler.serve.queue.jobs import QueueJobs
from tests.support.conditions import wait_until
from tests.support.stand_in_engine import StandInEngine, running_stand_in, runtime_of, worker_on


@pytest.fixture
def logging_restored():
    """A worker that is stopped while it imports the engine logs no more."""
    yield
    logging.disable(logging.NOTSET)
    logging.captureWarnings(False)


@pytest.fixture
def worker(runtime):
    return worker_on(runtime)


def native(prompt, job_id="j"):
    return {"id": job_id, "input": {"prompt": prompt, "stream": True}}


def routed(prompt, **more):
    body = {"prompt": prompt, "stream": True, **more}
    return {"id": "j", "input": {"route": "completions", "body": body}}


ENDLESS = native("endless")


def outputs(worker, job):
    async def run():
        return [output async for output in worker.handle(job)]

    return asyncio.run(run())


def test_an_error_in_a_stream_comes_as_its_event_and_fails_the_job(worker):
    """What was streamed stays, then the engine's own event, then the job's error."""
    *delivered, last = outputs(worker, routed("broken"))
    first, second, failed, end = "".join(delivered).split("\n\n")
    texts = [json.loads(each[6:])["choices"][0]["text"] for each in (first, second)]
    assert (texts, end) == (["one ", "two"], "")
    assert json.loads(failed[6:])["error"]["code"] == 500
    assert json.loads(last["error"])["error"] == {
        "message": "device lost at [path]",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }


def test_a_native_stream_fails_without_an_error_object_in_between(worker):
    """The SDK would end the job with the repr of a yielded dict that has an error."""
    *delivered, last = outputs(worker, native("broken"))
    assert "".join(chunk["choices"][0]["text"] for chunk in delivered) == "one two"
    assert json.loads(last["error"])["error"]["code"] == 500


def test_an_error_in_a_200_fails_the_job(worker):
    """The Responses API answers so."""
    [last] = outputs(worker, routed("in a 200"))
    assert json.loads(last["error"])["error"]["code"] == 422


def test_a_closed_generator_aborts_the_request(worker, engine):
    """The SDK closes it when a job is cancelled while it waits for the engine."""

    async def run():
        generator = worker.handle(ENDLESS)
        await anext(generator)
        assert engine.running_requests == 1
        await generator.aclose()

    asyncio.run(run())
    wait_until(lambda: engine.running_requests == 0)


def test_a_task_that_ends_between_two_yields_aborts_the_request(worker, engine, caplog):
    """A cancel often comes while the SDK posts a chunk: then nobody closes the generator.

    The log does not wait for that either.
    """
    caplog.set_level("INFO", "handler.metrics.request_log")
    generator = worker.handle(ENDLESS)

    async def run():
        posting = asyncio.Event()

        async def job():
            await anext(generator)
            posting.set()
            await asyncio.sleep(600)  # the SDK's POST; the generator is suspended meanwhile

        task = asyncio.ensure_future(job())
        await posting.wait()
        task.cancel()
        await asyncio.wait([task])
        await asyncio.to_thread(wait_until, lambda: engine.running_requests == 0)
        assert [record.fields["outcome"] for record in caplog.records] == ["cancelled"]
        await generator.aclose()
        assert len(caplog.records) == 1

    asyncio.run(run())


def test_a_prestarted_job_is_sent_at_once_and_once(worker, engine):
    """The SDK starts it later; by then a part of its answer is there."""
    jobs = QueueJobs(worker)
    jobs.taken([ENDLESS, {"id": "wrong", "input": 1}])
    wait_until(lambda: engine.running_requests == 1)

    async def run():
        generator = jobs.handle(ENDLESS)
        first = await anext(generator)
        await generator.aclose()
        return first

    assert asyncio.run(run())["choices"][0]["text"].startswith("one ")
    assert engine.prompts == ["endless"]
    wait_until(lambda: engine.running_requests == 0)
    [refused] = outputs(jobs, {"id": "wrong", "input": 1})
    assert json.loads(refused["error"])["error"]["code"] == 400


async def assert_cancelled(jobs, job):
    """Start a job that was stopped before."""
    task = asyncio.ensure_future(anext(jobs.handle(job)))
    await asyncio.wait([task])
    assert task.cancelled()


def test_a_prestarted_job_that_is_stopped_before_it_starts_is_aborted(worker, engine):
    """Its request runs already."""
    jobs = QueueJobs(worker)
    jobs.taken([ENDLESS])
    wait_until(lambda: engine.running_requests == 1)
    jobs.stop_early(["j"])
    asyncio.run(assert_cancelled(jobs, ENDLESS))
    wait_until(lambda: engine.running_requests == 0)


def test_a_job_that_is_stopped_before_it_is_taken_is_not_sent(worker, engine):
    """The stop may arrive before the job; a later job of the same id is another one."""
    jobs = QueueJobs(worker)
    jobs.stop_early(["j"])
    jobs.taken([native("not sent")])

    async def run():
        await assert_cancelled(jobs, native("not sent"))
        assert not jobs.busy
        generator = jobs.handle(ENDLESS)
        assert "choices" in await anext(generator)
        await generator.aclose()

    asyncio.run(run())
    assert engine.prompts == ["endless"]


def test_a_request_that_hangs_times_out(runtime, engine):
    """REQUEST_TIMEOUT bounds every wait for the engine, and the request is aborted."""
    worker = worker_on(runtime, request_timeout_seconds=0.2)
    [last] = outputs(worker, native("wait"))
    assert json.loads(last["error"])["error"]["code"] == 408
    wait_until(lambda: engine.running_requests == 0)


def once_it_runs(engine, action):
    """Do something when the engine has a request."""

    def act():
        wait_until(lambda: engine.running_requests == 1)
        action()

    threading.Thread(target=act).start()


def test_pending_requests_fail_when_the_engine_dies(worker, runtime, engine):
    """Even those that the engine itself leaves hanging; and new ones are refused."""
    reported = threading.Event()
    runtime.on_death(reported.set)
    once_it_runs(engine, lambda: setattr(engine, "alive", False))
    [last] = outputs(worker, native("wait"))
    assert json.loads(last["error"])["error"]["code"] == 503
    assert reported.wait(60)
    [refused] = outputs(worker, native("wait"))
    assert json.loads(refused["error"])["error"]["code"] == 503


def test_what_comes_after_all_requests_have_failed_is_refused_and_not_kept(worker, runtime, engine):
    """Nothing would fail it later."""
    runtime.fail_requests("The worker is being stopped.")
    [refused] = outputs(worker, native("hello"))
    error = json.loads(refused["error"])["error"]
    assert (error["code"], error["message"]) == (503, "The worker is being stopped.")
    assert (runtime._calls, engine.prompts) == (set(), [])


def test_an_engine_that_ends_its_own_thread_is_dead(worker, runtime, engine):
    """SGLang leaves with sys.exit where its own loop fails: nobody may wait for it."""
    reported = threading.Event()
    runtime.on_death(reported.set)
    once_it_runs(engine, engine.exit)
    [last] = outputs(worker, native("wait"))
    assert json.loads(last["error"])["error"]["code"] == 503
    assert reported.wait(60)
    assert runtime.dead


def test_stopping_leaves_no_process_of_the_engine_and_no_other_is_touched():
    """A child that was there before is not the engine's."""
    other = subprocess.Popen(["sleep", "600"])
    try:
        with running_stand_in() as (engine, _):
            assert engine.child.is_running()
        assert not engine.child.is_running()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_stopping_in_the_middle_of_a_launch_leaves_no_process_either():
    """The engine has none yet when it is stopped, and starts one a moment later."""
    engine = StandInEngine("process dies")
    runtime = EngineRuntime(lambda: None).__enter__()
    runtime.check_flags(engine)
    threading.Thread(target=runtime.launch).start()
    assert engine.launching.wait(60)
    runtime.stop()
    with pytest.raises(EngineStartFailed, match="its process died"):
        runtime.wait_until_up()
    assert not engine.child.is_running()


def test_an_engine_that_is_stopped_before_its_launch_is_never_launched(logging_restored):
    """Its imports take seconds, and the stop does not wait for them."""
    engine, may_import = StandInEngine(), threading.Event()
    runtime = EngineRuntime(may_import.wait).__enter__()
    runtime.check_flags(engine)
    runtime.stop()
    may_import.set()
    with pytest.raises(EngineStartFailed, match=r"^The engine was stopped before it started\.$"):
        runtime.wait_until_up()
    assert engine.child is None


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("invalid flag", InvalidSetting, "DTYPE='int3' is none"),
        (
            "out of memory",
            EngineStartFailed,
            "The engine did not start: CUDA out of memory: 80 GiB wanted",
        ),
    ],
    ids=["invalid flag", "out of memory"],
)
def test_a_failed_start_reports_the_root_cause(fault, error, message):
    """Not the outermost error, which says only that something failed."""
    with runtime_of(StandInEngine(fault)) as runtime, pytest.raises(error) as caught:
        runtime.wait_until_up()
    assert str(caught.value) == message
