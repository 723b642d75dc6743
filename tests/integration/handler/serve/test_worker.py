"""The worker's generator and the engine's host in cases that no real engine produces on demand.

The adapter here is a stand-in: a Starlette app that answers as vLLM does when it fails in the
middle of a stream, that never ends, or that dies. The real engine stands behind the same code in
test_endpoint.py, test_queue.py and test_process.py.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager

import psutil
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from handler.engine.capacity import job_concurrency
from handler.engine.interface import Capacity, RunningEngine
from handler.engine.runtime import EngineRuntime
from handler.errors import EngineStartFailed, InvalidSetting
from handler.request.parse import RequestParser
from handler.serve.queue.jobs import QueueJobs
from handler.serve.worker import NoFrontEnd, Worker

CAPACITY = Capacity(max_sequences=8, kv_cache_tokens=4096, max_model_tokens=2048)


def event(text):
    return b"data: " + json.dumps({"choices": [{"index": 0, "text": text}]}).encode() + b"\n\n"


def worker_on(runtime, **more):
    parser = RequestParser(("served",), "org/name", {})
    return Worker(runtime, parser, max_jobs=4, front_end=NoFrontEnd(), **more)


class StandIn:
    """An adapter without an engine."""

    name = "stand-in"
    served_model_name = "served"

    def __init__(self, fault=None):
        self.fault = fault
        self.living = True
        self.began = threading.Semaphore(0)
        self.ended = threading.Event()
        self.child = None

    forks = False

    def prepare(self):
        pass

    def check(self):
        if self.fault == "flag":
            raise InvalidSetting("DTYPE='int3' is none")

    @asynccontextmanager
    async def running(self, pacer):
        if self.fault == "late":
            self.began.release()
            time.sleep(0.3)
        self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        if self.fault == "late":
            self.child.wait(5)
            self.ended.set()
            raise RuntimeError("its process died")
        if self.fault == "start":
            try:
                raise ValueError("CUDA out of memory: 80 GiB wanted")
            except ValueError as error:
                raise RuntimeError("engine core failed") from error
        app = Starlette(
            routes=[
                Route("/v1/completions", getattr(self, self.fault or "endless"), methods=["POST"])
            ]
        )
        yield RunningEngine(app, CAPACITY, lambda: self.living)

    def reap(self):
        """Take the exit code of the child, which the host has killed."""
        return self.child and self.child.wait(5)

    async def endless(self, _):
        self.began.release()

        async def body():
            try:
                while True:
                    yield event("x")
                    await asyncio.sleep(0.01)
            finally:
                self.ended.set()

        return StreamingResponse(body(), media_type="text/event-stream")

    async def silent(self, _):
        try:
            await asyncio.sleep(600)
        finally:
            self.ended.set()

    async def broken_stream(self, _):
        async def body():
            yield event("one ")
            yield event("two")
            yield (
                b'data: {"error": {"message": "device lost at /opt/venv/lib/x.py", '
                b'"type": "InternalServerError", "param": null, "code": 500}}\n\n'
            )
            yield b"data: [DONE]\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    async def error_in_200(self, _):
        return JSONResponse({"object": "response", "error": {"message": "no", "code": 422}})


@pytest.fixture
def started(request):
    """A host with the stand-in, and a worker on it."""
    adapter = StandIn(getattr(request, "param", None))
    with EngineRuntime(adapter) as host:
        host.wait_until_up()
        yield adapter, host, worker_on(host)
    adapter.reap()


NATIVE = {"id": "j", "input": {"prompt": "a", "stream": True}}
RAW = {"id": "j", "input": {"route": "completions", "body": {"prompt": "a", "stream": True}}}


def outputs(worker, job):
    async def run():
        return [output async for output in worker.handle(job)]

    return asyncio.run(run())


@pytest.mark.parametrize("started", ["broken_stream"], indirect=True)
def test_an_error_in_a_stream_comes_as_its_event_and_fails_the_job(started):
    """What was streamed stays, then the engine's own event, then the job's error."""
    *delivered, last = outputs(started[2], RAW)
    events = "".join(delivered).split("\n\n")
    assert [json.loads(one[6:]).get("choices", [{}])[0].get("text") for one in events[:3]] == [
        "one ",
        "two",
        None,
    ]
    assert json.loads(events[2][6:])["error"]["code"] == 500
    assert json.loads(last["error"])["error"] == {
        "message": "device lost at [path]",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }


@pytest.mark.parametrize("started", ["broken_stream"], indirect=True)
def test_a_native_stream_fails_without_an_error_object_in_between(started):
    """The SDK would end the job with the repr of a yielded dict that has an error."""
    *delivered, last = outputs(started[2], NATIVE)
    assert "".join(chunk["choices"][0]["text"] for chunk in delivered) == "one two"
    assert json.loads(last["error"])["error"]["code"] == 500


@pytest.mark.parametrize("started", ["error_in_200"], indirect=True)
def test_an_error_in_a_200_fails_the_job(started):
    """The responses API answers so."""
    [last] = outputs(started[2], RAW)
    assert json.loads(last["error"])["error"]["code"] == 422


def test_a_closed_generator_aborts_the_request(started):
    """The SDK closes it when it has had enough."""
    adapter, _, worker = started

    async def run():
        generator = worker.handle(NATIVE)
        await anext(generator)
        await generator.aclose()

    asyncio.run(run())
    assert adapter.ended.wait(2)


def test_a_task_that_ends_between_two_yields_aborts_the_request(started, caplog):
    """A cancel often comes while the SDK posts a chunk: then nobody closes the generator.

    The log does not wait for that either.
    """
    caplog.set_level("INFO", "handler.metrics.request_log")
    adapter, _, worker = started
    generator = worker.handle(NATIVE)

    async def job():
        await anext(generator)
        await asyncio.sleep(600)  # the SDK's POST; the generator is suspended meanwhile

    async def run():
        task = asyncio.ensure_future(job())
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.wait([task])
        assert await asyncio.to_thread(adapter.ended.wait, 2)
        assert [record.fields["outcome"] for record in caplog.records] == ["cancelled"]
        await generator.aclose()
        assert len(caplog.records) == 1

    asyncio.run(run())


def test_a_prestarted_job_is_sent_at_once_and_once(started):
    """The SDK begins it later; then what has gathered is there."""
    adapter, _, worker = started
    jobs = QueueJobs(worker)
    jobs.prestart([NATIVE, {"id": "wrong", "input": 1}])
    assert adapter.began.acquire(timeout=2)

    async def run():
        generator = jobs.handle(NATIVE)
        first = await anext(generator)
        await generator.aclose()
        return first

    assert asyncio.run(run())["choices"][0]["text"][0] == "x"
    assert not adapter.began.acquire(timeout=0.2)
    assert adapter.ended.wait(2)
    [refused] = outputs(jobs, {"id": "wrong", "input": 1})
    assert json.loads(refused["error"])["error"]["code"] == 400


def test_a_prestarted_job_that_is_stopped_before_it_starts_is_aborted(started):
    """Its request has begun."""
    adapter, _, worker = started
    jobs = QueueJobs(worker)
    jobs.prestart([NATIVE])
    assert adapter.began.acquire(timeout=2)
    jobs.stop_early(["j"])

    async def run():
        task = asyncio.ensure_future(anext(jobs.handle(NATIVE)))
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(run())
    assert adapter.ended.wait(2)


def test_a_job_that_is_stopped_before_it_is_taken_is_not_sent(started):
    """The platform's two polls answer when they like; a second run of that name is another."""
    adapter, _, worker = started
    jobs = QueueJobs(worker)
    jobs.stop_early(["j"])
    jobs.prestart([NATIVE])

    async def run():
        task = asyncio.ensure_future(anext(jobs.handle(NATIVE)))
        await asyncio.wait([task])
        assert task.cancelled()
        assert not jobs.busy
        assert not adapter.began.acquire(timeout=0.2)
        generator = jobs.handle(NATIVE)
        assert "choices" in await anext(generator)
        await generator.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("started", ["silent"], indirect=True)
def test_a_request_that_hangs_times_out(started):
    """REQUEST_TIMEOUT bounds every wait for the engine, and the request is aborted."""
    adapter, host, _ = started
    worker = worker_on(host, request_timeout_seconds=0.2)
    [last] = outputs(worker, NATIVE)
    assert json.loads(last["error"])["error"]["code"] == 408
    assert adapter.ended.wait(2)


@pytest.mark.parametrize("started", ["silent"], indirect=True)
def test_pending_requests_fail_when_the_engine_dies(started):
    """Even those that the engine itself leaves hanging; and new ones are refused."""
    adapter, host, worker = started
    told = threading.Event()
    host.on_death(told.set)
    threading.Timer(0.2, lambda: setattr(adapter, "living", False)).start()
    [last] = outputs(worker, NATIVE)
    assert json.loads(last["error"])["error"]["code"] == 503
    assert told.wait(2)
    [refused] = outputs(worker, NATIVE)
    assert json.loads(refused["error"])["error"]["code"] == 503


@pytest.mark.parametrize("started", ["silent"], indirect=True)
def test_an_engine_that_ends_its_own_thread_is_dead(started):
    """SGLang leaves with sys.exit where its own loop fails: nobody may wait for it."""
    _, host, worker = started
    told = threading.Event()
    host.on_death(told.set)
    threading.Timer(0.2, lambda: host._loop.call_soon_threadsafe(sys.exit, 1)).start()
    [last] = outputs(worker, NATIVE)
    assert json.loads(last["error"])["error"]["code"] == 503
    assert told.wait(2)
    assert host.dead


def test_stopping_leaves_no_process_of_the_engine_and_no_other_is_touched():
    """A child that was there before is not the engine's."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        adapter = StandIn()
        with EngineRuntime(adapter) as host:
            host.wait_until_up()
            child = psutil.Process(adapter.child.pid)
        assert not child.is_running()
        adapter.reap()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_stopping_in_the_middle_of_a_launch_leaves_no_process_either():
    """The engine has none yet when it is stopped, and would start one a moment later."""
    adapter = StandIn("late")
    host = EngineRuntime(adapter).__enter__()
    threading.Thread(target=host.launch).start()
    assert adapter.began.acquire(timeout=5)
    host.stop()
    assert adapter.ended.wait(2)
    with pytest.raises(EngineStartFailed, match="its process died"):
        host.wait_until_up()


def test_what_is_stopped_before_its_launch_is_never_launched():
    """Its imports take seconds, and nobody waits for them."""
    adapter = StandIn("late")
    host = EngineRuntime(adapter).__enter__()
    host.stop()
    with pytest.raises(EngineStartFailed, match=r"^The engine was stopped before it started\.$"):
        host.wait_until_up()
    assert adapter.child is None


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("flag", InvalidSetting, "DTYPE='int3' is none"),
        (
            "start",
            EngineStartFailed,
            "The engine did not start: CUDA out of memory: 80 GiB wanted",
        ),
    ],
)
def test_a_failed_start_says_the_root_cause(fault, error, message):
    """Not the outermost error, which says only that something failed."""
    adapter = StandIn(fault)
    with EngineRuntime(adapter) as host, pytest.raises(error) as caught:
        host.wait_until_up()
    adapter.reap()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("setting", "capacity", "jobs"),
    [
        (5, CAPACITY, 5),
        ("auto", CAPACITY, 4),  # 4,096 tokens of KV cache hold four typical requests
        ("auto", Capacity(2, 4096, 2048), 2),
        ("auto", Capacity(256, 8192, 128), 64),
        ("auto", Capacity(256, 100, 2048), 1),
    ],
)
def test_jobs_at_once(setting, capacity, jobs):
    """A number is a number; auto is what the engine can batch and its cache holds."""
    assert job_concurrency(setting, capacity) == jobs
