"""What the worker replaces and reads in the Runpod SDK: see the table of its `sdk_patches`.

.venv/bin/python -m pytest tests/contract/test_runpod.py
"""

import ast
import asyncio
import inspect
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
from handler.serve.queue.sdk_patches import (
    SDK_LOG_LEVELS,
    SdkHooks,
    import_sdk,
    patch_sdk,
    sdk_environment,
)

import_sdk()

from runpod import http_client  # noqa: E402
from runpod.serverless.modules import (  # noqa: E402
    rp_fitness,
    rp_gpu_fitness,
    rp_http,
    rp_job,
    rp_logger,
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
def patched(monkeypatch):
    """A function that replaces the SDK's functions until the test ends, and returns its calls."""
    for owner, name in (
        (rp_scale, "get_job"),
        (rp_scale, "get_stop_signals"),
        (rp_scale.JobScaler, "run_jobs"),
        (rp_scale, "AsyncClientSession"),
        (rp_http, "_transmit"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # so that it is set back
    seen = []

    def patch(**more):
        async def transmit(session, url, data):
            seen.append((url, data))

        async def slot_freed():
            seen.append("slot freed")

        hooks = {
            "free_slots": lambda taken: 3 - taken,
            "slot_freed": slot_freed,
            "jobs_taken": seen.append,
            "jobs_stopped": seen.append,
            "job_cancelled": seen.append,
            "transmit": transmit,
        }
        patch_sdk(SdkHooks(**{**hooks, **more}))
        return seen

    return patch


def test_the_version_is_the_one_of_the_table():
    assert version("runpod") == "1.12.0"


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (rp_scale.get_job, ["session", "num_jobs"]),
        (rp_scale.get_stop_signals, ["session"]),
        (rp_scale.JobScaler.run_jobs, ["self", "session"]),
        (rp_http._transmit, ["client_session", "url", "job_data"]),
        (rp_scale.JobScaler.handle_job, ["self", "session", "job"]),
        (rp_scale.JobScaler.is_alive, ["self"]),
        (rp_http.send_result, ["session", "job_data", "job", "is_stream"]),
        (worker_state.JobsProgress.get_job_count, ["self"]),
        (worker_state.JobsProgress.remove, ["self", "element"]),
        (http_client.AsyncClientSession, ["args", "kwargs"]),
    ],
    ids=lambda each: getattr(each, "__qualname__", ""),
)
def test_a_function_has_its_parameters(function, parameters):
    assert list(inspect.signature(function).parameters) == parameters


@pytest.mark.parametrize(
    ("caller", "called"),
    [
        (rp_scale.JobScaler.run, "self.run_jobs"),
        (rp_scale.JobScaler.run, "self.get_jobs"),
        (rp_scale.JobScaler.run, "AsyncClientSession"),
        (rp_scale.JobScaler.run, "self.monitor_stop_signals"),
        (rp_scale.JobScaler.get_jobs, "self.jobs_fetcher"),
        (rp_scale.JobScaler.monitor_stop_signals, "self.stop_signals_fetcher"),
        (rp_http._handle_result, "_transmit"),
        (rp_http.send_result, "_handle_result"),
        (rp_http.stream_result, "_handle_result"),
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
    # With another function the SDK would not look whether there is a channel for stops.
    assert scaler.stop_signals_fetcher is rp_scale.get_stop_signals
    assert rp_scale.get_stop_signals is not rp_job.get_stop_signals


def test_a_poll_takes_as_many_jobs_as_there_are_free_slots(patched, monkeypatch):
    """`num_jobs` goes to the platform; the SDK adds what it gets to its own queue."""
    polls = []

    async def get_job(session, num_jobs=1):
        polls.append(num_jobs)
        return [{"id": "a"}]

    monkeypatch.setattr(rp_scale, "get_job", get_job)
    seen = patched()
    assert asyncio.run(rp_scale.get_job("session", 7)) == [{"id": "a"}]
    assert (polls, seen) == ([3], [[{"id": "a"}]])


def test_no_poll_is_sent_without_a_free_slot(patched, monkeypatch):
    async def get_job(session, num_jobs=1):
        raise AssertionError("polled")

    monkeypatch.setattr(rp_scale, "get_job", get_job)
    seen = patched(free_slots=lambda taken: 0)
    assert asyncio.run(rp_scale.get_job("session", 7)) == []
    assert seen == ["slot freed"]


def test_a_stop_signal_reaches_the_worker_and_the_sdk(patched, monkeypatch):
    async def get_stop_signals(session):
        return ["a"]

    monkeypatch.setattr(rp_scale, "get_stop_signals", get_stop_signals)
    seen = patched()
    assert asyncio.run(rp_scale.get_stop_signals(SimpleNamespace(closed=False))) == ["a"]
    assert seen == [["a"]]


def test_a_poll_for_stop_signals_on_a_closed_session_is_cancelled(patched):
    """The SDK takes any other error for one that passes, and polls again."""

    patched()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(rp_scale.get_stop_signals(SimpleNamespace(closed=True)))


def test_a_result_and_a_chunk_are_posted_by_the_replaced_function(patched):
    """As JSON text, with the job's id in the session's headers."""
    seen = patched()

    job, session = {"id": "j"}, SimpleNamespace(headers={})
    asyncio.run(rp_http.send_result(session, {"output": "é"}, job))
    asyncio.run(rp_http.stream_result(session, {"output": 1}, job))
    assert seen == [
        ("JOB_DONE_URL&isStream=false", '{"output": "é"}'),
        ("JOB_STREAM_URL&isStream=false", '{"output": 1}'),
    ]
    assert session.headers == {"X-Request-ID": "j"}


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


def test_the_sdk_loses_a_poll_with_a_job_that_is_nested_too_deeply(patched, monkeypatch):
    """The jobs are taken, and no one knows their ids; with the worker's session they come."""
    monkeypatch.setattr(rp_job, "_job_get_url", lambda _: "/")
    deep = '{"id": "a", "input": {"prompt": ' + "[" * 5000 + "]" * 5000 + "}}"
    body = f'[{deep}, {{"id": "b", "input": "]}}["}}]'.encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    async def take(make_session):
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            async with make_session(base_url=f"http://{host}:{port}") as session:
                return await rp_job.get_job(session, 2)

    with pytest.raises(RecursionError):
        asyncio.run(take(http_client.AsyncClientSession))
    patched()
    jobs = asyncio.run(take(rp_scale.AsyncClientSession))
    assert [job["id"] for job in jobs] == ["a", "b"]
    assert jobs[1]["input"] == "]}["
    with pytest.raises(InvalidInput, match="'prompt' is nested too deeply"):
        check_nesting(jobs[0]["input"])


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
