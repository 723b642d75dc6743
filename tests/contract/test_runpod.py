"""What the worker replaces and reads in the Runpod SDK: see the table of its `sdk_patches`.

.venv/bin/python -m pytest tests/contract/test_runpod.py
"""

import ast
import asyncio
import inspect
import json
import subprocess
import sys
import textwrap
from importlib import import_module
from importlib.metadata import version
from types import SimpleNamespace

import aiohttp
import pytest

from handler.errors import InvalidInput
from handler.request.json_text import check_nesting
from handler.serve.queue import sdk_patches
from handler.serve.queue.delivery import Delivery
from handler.serve.queue.job_run import JobRunner
from handler.serve.queue.job_take import JobTake
from handler.serve.queue.job_text import JobDecoder
from handler.serve.queue.long_poll import POLL_TIMEOUT_SECONDS
from handler.serve.queue.ping import JOB_ID as PING_JOB_ID
from handler.serve.queue.ping import pinged_jobs
from handler.serve.queue.repeated_lines import RepeatedLines
from handler.serve.queue.sdk_loops import SdkLoops
from handler.serve.queue.sdk_patches import (
    SDK_LOG_LEVELS,
    SdkHooks,
    import_sdk,
    patch_sdk,
    sdk_environment,
)
from handler.supervisor import Supervisor
from runpod_local import running_platform

import_sdk()

from runpod import http_client  # noqa: E402
from runpod.serverless.modules import (  # noqa: E402
    rp_fitness,
    rp_gpu_fitness,
    rp_http,
    rp_job,
    rp_logger,
    rp_ping,
    rp_progress,
    rp_scale,
    worker_state,
)
from runpod.serverless.utils import rp_upload  # noqa: E402


def calls(function):
    """Return the names of what a function calls, such as `self.run_jobs`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.fixture
def scaler():
    """The SDK's scaler, as its own `start` makes it."""

    async def made():
        return rp_scale.JobScaler({"concurrency_modifier": lambda _: 3})

    return asyncio.run(made())


@pytest.fixture
def poll_sessions(monkeypatch):
    """The sessions that the polls have made."""
    sessions, make = [], sdk_patches._poll_session

    def session():
        sessions.append(make())
        return sessions[-1]

    monkeypatch.setattr(sdk_patches, "_poll_session", session)
    return sessions


@pytest.fixture
def patched(monkeypatch, poll_sessions):
    """A function that replaces the SDK's functions until the test ends, and returns its calls."""
    for owner, name in (
        (rp_scale, "get_job"),
        (rp_scale, "get_stop_signals"),
        (rp_scale, "handle_job"),
        (rp_scale.JobScaler, "run_jobs"),
        (rp_scale.JobScaler, "run"),
        (rp_ping, "Process"),
        (rp_logger.RunPodLogger, "log"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # so that it is set back
    seen = []

    def patch(**more):
        async def fail_job(session, job, error):
            seen.append((job["id"], str(error)))

        async def slot_freed():
            seen.append("slot freed")

        async def run_job(session, config, job):
            seen.append(job)

        hooks = {
            "run_job": run_job,
            "free_slots": lambda taken: 3 - taken,
            "slot_freed": slot_freed,
            "jobs_taken": seen.append,
            "jobs_stopped": seen.append,
            "job_dropped": seen.append,
            "fail_job": fail_job,
            "decode": JobDecoder().decode,
        }
        patch_sdk(SdkHooks(**{**hooks, **more}), SdkLoops(Supervisor(), None), RepeatedLines())
        return seen

    return patch


def test_the_version_is_the_one_of_the_table():
    assert version("runpod") == "1.12.0"


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (rp_scale.get_job, ["session", "num_jobs"]),
        (rp_scale.get_stop_signals, ["session"]),
        (rp_scale.handle_job, ["session", "config", "job"]),
        (rp_scale.JobScaler.run_jobs, ["self", "session"]),
        (rp_scale.JobScaler.handle_job, ["self", "session", "job"]),
        (rp_scale.JobScaler.is_alive, ["self"]),
        (worker_state.JobsProgress.get_job_count, ["self"]),
        (worker_state.JobsProgress.remove, ["self", "element"]),
        (http_client.AsyncClientSession, ["args", "kwargs"]),
        (http_client.get_auth_header, []),
        (rp_ping.Heartbeat.process_loop, ["mirror", "test"]),
        (rp_ping.Heartbeat.ping_loop, ["self", "test"]),
    ],
    ids=lambda each: getattr(each, "__qualname__", ""),
)
def test_a_function_has_its_parameters(function, parameters):
    assert list(inspect.signature(function).parameters) == parameters


@pytest.mark.parametrize(
    ("caller", "called"),
    [
        (rp_scale.JobScaler.start, "self.run"),
        (rp_scale.JobScaler.run, "self.run_jobs"),
        (rp_scale.JobScaler.run, "self.get_jobs"),
        (rp_scale.JobScaler.run, "AsyncClientSession"),
        (rp_scale.JobScaler.run, "self.monitor_stop_signals"),
        (rp_scale.JobScaler.get_jobs, "self.jobs_fetcher"),
        (rp_scale.JobScaler.monitor_stop_signals, "self.stop_signals_fetcher"),
        (rp_scale.JobScaler.handle_job, "self.jobs_handler"),
        (rp_ping.Heartbeat.start_ping, "Process"),
        (rp_ping.Heartbeat.ping_loop, "self._send_ping"),
    ],
    ids=lambda each: getattr(each, "__qualname__", each),
)
def test_a_replaced_function_is_still_called(caller, called):
    assert called in calls(caller)


def test_the_scaler_has_what_the_start_of_jobs_uses(scaler):
    assert (scaler.jobs_tasks, scaler.is_alive()) == ({}, True)
    assert isinstance(scaler.jobs_queue, asyncio.Queue)
    assert scaler.job_progress is worker_state.JobsProgress()  # the same in the whole process


def test_a_new_scaler_takes_jobs_with_the_replaced_functions(patched):
    """The SDK looks them up when it makes the scaler, in `runpod.serverless.start`."""
    patched()

    async def made():
        return rp_scale.JobScaler({})

    scaler = asyncio.run(made())
    assert scaler.jobs_fetcher is rp_scale.get_job is not rp_job.get_job
    assert scaler.jobs_handler is rp_scale.handle_job is not rp_job.handle_job
    # With another function the SDK would not look whether there is a channel for stops.
    assert scaler.stop_signals_fetcher is rp_scale.get_stop_signals
    assert rp_scale.get_stop_signals is not rp_job.get_stop_signals


async def polled(poll, sessions):
    """Return what a poll brings, and close the session that it leaves."""
    try:
        return await poll
    finally:
        for session in sessions:
            await session.close()


def test_a_poll_takes_as_many_jobs_as_there_are_free_slots(patched, monkeypatch, poll_sessions):
    """The SDK adds what it gets to its own queue."""
    polls = []

    async def take(self, session, max_jobs):
        polls.append((session.timeout.total, max_jobs))
        return [{"id": "a"}]

    monkeypatch.setattr(JobTake, "take", take)
    seen = patched()
    assert asyncio.run(polled(rp_scale.get_job("session", 7), poll_sessions)) == [{"id": "a"}]
    assert (polls, seen) == ([(None, 3)], [[{"id": "a"}]])


def test_no_poll_is_sent_without_a_free_slot(patched, monkeypatch):
    async def take(self, session, max_jobs):
        raise AssertionError("polled")

    monkeypatch.setattr(JobTake, "take", take)
    seen = patched(free_slots=lambda taken: 0)
    assert asyncio.run(rp_scale.get_job("session", 7)) == []
    assert seen == ["slot freed", []]


def test_a_stop_signal_reaches_the_worker_and_the_sdk(patched, monkeypatch, poll_sessions):
    async def get_stop_signals(session):
        return ["a"]

    monkeypatch.setattr(rp_scale, "get_stop_signals", get_stop_signals)
    seen = patched()
    assert asyncio.run(polled(rp_scale.get_stop_signals("session"), poll_sessions)) == ["a"]
    assert seen == [["a"]]


def test_a_poll_after_a_cancelled_one_is_cancelled_too(patched, poll_sessions):
    """The SDK takes any other error for one that passes, and polls again."""
    patched()

    async def poll_again():
        task = asyncio.create_task(rp_scale.get_stop_signals("session"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        with pytest.raises(asyncio.CancelledError):
            await rp_scale.get_stop_signals("session")
        for session in poll_sessions:
            await session.close()

    asyncio.run(poll_again())


def test_a_job_whose_answer_is_under_way_at_the_end_fails_with_a_reason(patched, monkeypatch):
    """The loop that takes jobs is cancelled as by the drain, while the answer is decoded."""

    async def run():
        decoding, may_decode, tasks = asyncio.Event(), asyncio.Event(), []

        async def decode(body):
            decoding.set()
            await may_decode.wait()
            return json.loads(body)

        def concurrency(_):
            tasks.append(asyncio.current_task())
            return 3

        async def take(session):
            monkeypatch.setattr(rp_job, "_job_get_url", lambda _: session._build_url("/"))
            seen = patched(decode=decode)
            scaler = rp_scale.JobScaler({"concurrency_modifier": concurrency})
            running = asyncio.create_task(scaler.run())
            await decoding.wait()
            tasks[0].cancel()
            await asyncio.wait([tasks[0]])
            may_decode.set()
            await asyncio.wait([running])
            assert running.cancelled()
            return seen

        return await take_from(b'[{"id": "a", "input": {}}]', take)

    assert asyncio.run(run()) == ["a", ("a", "The worker ended before it could start this job.")]


def test_the_sdk_reads_the_timeouts_of_its_polls_before_each_one(scaler):
    for loop, name in (
        (scaler.get_jobs, "jobs_fetcher_timeout"),
        (scaler.monitor_stop_signals, "stop_signals_fetcher_timeout"),
    ):
        assert getattr(scaler, name) == POLL_TIMEOUT_SECONDS
        assert f"timeout=self.{name}" in inspect.getsource(loop)


@pytest.mark.parametrize(
    "outputs", [["é", {"text": "b"}], ["a", {"error": "no"}], []], ids=["outputs", "error", "none"]
)
def test_a_job_is_posted_as_the_sdk_posts_it(monkeypatch, outputs):
    """To the same URLs, with the same JSON and headers, in the same order."""
    posted = {"sdk": [], "worker": []}

    class Posts(Delivery):
        async def post(self, url, body, headers):
            posted["worker"].append((url, json.loads(body), dict(headers)["X-Request-ID"]))

    async def transmit(session, url, data):
        posted["sdk"].append((url, json.loads(data), session.headers["X-Request-ID"]))

    async def handler(job):
        for output in outputs:
            yield output

    monkeypatch.setattr(rp_http, "_transmit", transmit)
    monkeypatch.setattr(rp_http, "JOB_STREAM_URL", "http://platform/stream/$ID?gpu=none")
    monkeypatch.setattr(rp_http, "JOB_DONE_URL", "http://platform/done/$ID?gpu=none")
    job, config = {"id": "j"}, {"handler": handler, "return_aggregate_stream": True}
    asyncio.run(rp_job.handle_job(SimpleNamespace(headers={}), config, job))
    runner = JobRunner(Posts())
    asyncio.run(runner.run(handler, SimpleNamespace(headers={}), config, job))
    assert posted["worker"] == posted["sdk"]
    assert len(posted["sdk"]) == 1 + sum(not isinstance(o, dict) or "text" in o for o in outputs)


def test_progress_is_posted_as_the_sdk_posts_it(monkeypatch):
    posted = {"sdk": [], "worker": []}

    class Posts(Delivery):
        async def post(self, url, body, headers):
            posted["worker"].append((url, json.loads(body)))

    async def transmit(session, url, data):
        posted["sdk"].append((url, json.loads(data)))

    monkeypatch.setattr(rp_http, "_transmit", transmit)
    asyncio.run(
        rp_progress._async_progress_update(SimpleNamespace(headers={}), {"id": "j"}, {"a": 1})
    )
    asyncio.run(JobRunner(Posts()).report_progress({"id": "j"}, {"a": 1}))
    assert posted["worker"] == posted["sdk"]


def test_concurrency_is_asked_for_before_each_poll():
    """There the worker notes the SDK's task and replaces the SDK's signal handlers."""
    order = [name for name in calls(rp_scale.JobScaler.get_jobs) if name.startswith("self.")]
    assert order.index("self.set_scale") < order.index("self.jobs_fetcher")
    assert "self.concurrency_modifier" in calls(rp_scale.JobScaler.set_scale)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (rp_fitness, "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS"),
        (rp_gpu_fitness, "RUNPOD_SKIP_GPU_CHECK"),
        (rp_logger, "RUNPOD_LOG_LEVEL"),
    ],
    ids=["system checks", "GPU check", "log level"],
)
def test_the_sdk_reads_the_variables_that_the_worker_sets(module, name):
    assert f'"{name}"' in inspect.getsource(module)
    assert name in sdk_environment("INFO", {})


def test_the_sdk_has_the_log_levels():
    assert set(SDK_LOG_LEVELS.values()) <= set(rp_logger.LOG_LEVELS)


# ---- why they are replaced


def test_the_sdk_asks_for_the_processor_at_its_import():
    """It starts a process that takes a second; the worker answers in its place."""
    code = (
        "import cpuinfo, sys\n"
        "from handler.serve.queue.sdk_patches import import_sdk, processor_name\n"
        "ask = cpuinfo.get_cpu_info\n"
        "processes = []\n"
        "sys.addaudithook(lambda name, _: name == 'subprocess.Popen' and processes.append(name))\n"
        "import_sdk()\n"
        "from runpod.serverless.utils import rp_debugger\n"
        "assert rp_debugger.PROCESSOR == processor_name()\n"
        "assert cpuinfo.get_cpu_info is ask\n"
        "assert processes == []\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    source = inspect.getsource(import_module("runpod.serverless.utils.rp_debugger"))
    assert 'PROCESSOR = cpuinfo.get_cpu_info()["brand_raw"]' in source


def test_the_sdk_configures_the_root_logger_at_its_import():
    assert "\nlogging.basicConfig(" in inspect.getsource(rp_upload)


def test_the_sdk_waits_a_tenth_of_a_second_before_it_looks_for_a_job():
    assert "asyncio.sleep(0.1)" in inspect.getsource(rp_scale.JobScaler.run_jobs)


def test_the_sdk_looks_for_a_free_slot_once_a_second():
    assert "asyncio.sleep(1)" in inspect.getsource(rp_scale.JobScaler.get_jobs)


def test_the_sdk_forgets_a_stop_of_a_job_that_has_not_started(scaler):
    assert asyncio.run(scaler.stop_job("taken, not started")) is False


async def take_from(body, take):
    """Return what `take` of a session returns where the platform answers with a body."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with aiohttp.ClientSession(base_url=f"http://{host}:{port}") as session:
            return await take(session)


def test_the_sdk_loses_a_poll_with_a_job_that_is_nested_too_deeply(monkeypatch):
    """The jobs are taken, and no one knows their ids; the worker's own poll has them."""
    monkeypatch.setattr(rp_job, "_job_get_url", lambda _: "/")
    deep = '{"id": "a", "input": {"prompt": ' + "[" * 5000 + "]" * 5000 + "}}"
    body = f'[{deep}, {{"id": "b", "input": "]}}["}}]'.encode()
    with pytest.raises(RecursionError):
        asyncio.run(take_from(body, lambda session: rp_job.get_job(session, 2)))
    job_take = JobTake(rp_job._job_get_url, lambda _: False, JobDecoder().decode)
    jobs = asyncio.run(take_from(body, lambda session: job_take.take(session, 2)))
    assert [job["id"] for job in jobs] == ["a", "b"]
    assert jobs[1]["input"] == "]}["
    with pytest.raises(InvalidInput, match="'prompt' is nested too deeply"):
        check_nesting(jobs[0]["input"])


def test_the_sdk_takes_a_job_that_ends_its_loop(scaler, monkeypatch):
    """Without an id it is in the SDK's queue, and the loop that starts jobs fails on it."""
    monkeypatch.setattr(rp_job, "_job_get_url", lambda _: "/")
    body = b'[{"input": {}}]'
    jobs = asyncio.run(take_from(body, lambda session: rp_job.get_job(session, 2)))
    assert jobs == [{"input": {}}]
    with pytest.raises(TypeError):
        worker_state.Job(**jobs[0])
    assert 'self.jobs_tasks[job["id"]] = task' in inspect.getsource(rp_scale.JobScaler.run_jobs)


def test_a_job_of_the_sdk_is_found_by_its_id():
    """So the worker sees that a job is running already."""
    progress = worker_state.JobsProgress()
    progress.add({"id": "a", "input": {}, "refused": "x"})
    found = [worker_state.Job(id=name) in progress for name in ("a", "b")]
    progress.clear()
    assert found == [True, False]


def test_the_sdk_loses_a_chunk_when_its_connection_breaks():
    """It sends a chunk again after a 5xx only."""
    connections = []

    async def drop(reader, writer):
        connections.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async def transmit():
        async with await asyncio.start_server(drop, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            async with http_client.AsyncClientSession() as session:
                await rp_http._transmit(session, f"http://{host}:{port}/", "{}")

    with pytest.raises(aiohttp.ClientConnectionError):
        asyncio.run(transmit())
    assert len(connections) == 1


def test_a_server_refuses_a_ping_that_names_more_jobs_than_fit(monkeypatch):
    """The SDK does not say so: the ping is lost. As many as `pinged_jobs` says arrive."""
    with running_platform() as platform:
        environ = {
            "RUNPOD_WEBHOOK_PING": f"{platform.base_url}/ping/$RUNPOD_POD_ID",
            "RUNPOD_POD_ID": worker_state.WORKER_ID,
            "RUNPOD_AI_API_KEY": platform.settings.worker_key,
        }
        for name, text in environ.items():
            monkeypatch.setenv(name, text)
        heartbeat, fitting = rp_ping.Heartbeat(), pinged_jobs(environ)
        arrived = []
        for count in (fitting, fitting + 5):
            ids = ",".join([PING_JOB_ID] * count)
            heartbeat._mirror = SimpleNamespace(get=lambda ids=ids: ids)
            heartbeat._send_ping()
        heartbeat._session.close()
        for worker in platform.workers.values():
            arrived += [len(ping.job_ids) for ping in worker.pings]
    assert arrived == [fitting]


def test_the_sdk_does_not_look_after_its_process_of_pings():
    """`ping_process` does: it reads these, and sets a mirror and `_send_ping`."""
    heartbeat = rp_ping.Heartbeat()
    assert (heartbeat._mirror, heartbeat.PING_INTERVAL) == (None, 10)
    assert callable(heartbeat._session.close)
    assert "process.join" not in inspect.getsource(rp_ping)
    assert "is_alive" not in inspect.getsource(rp_ping)
