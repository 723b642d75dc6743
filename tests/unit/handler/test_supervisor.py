"""The threads and tasks that end the worker when they end by an exception."""

import asyncio
import threading
import time

import pytest

from handler.engine.awake_clock import AwakeClock
from handler.errors import LoopFailed
from handler.metrics.cost import CostMeter
from handler.metrics.monitor import Monitor
from handler.serve.http.server import HttpServer
from handler.startup import compile_cache
from handler.startup.compile_cache import CompileCache
from handler.supervisor import Supervisor
from tests.support.stand_in_engine import running_stand_in


@pytest.fixture
def supervisor():
    """With `failed`, which is set when it has noticed a failure."""
    made = Supervisor()
    made.failed = threading.Event()
    made.on_failure(made.failed.set)
    return made


def fail(*_):
    raise SystemExit  # which would end a thread without a word


def failure(supervisor):
    """Return what the worker ends with."""
    assert supervisor.failed.wait(60)
    with pytest.raises(LoopFailed) as raised:
        supervisor.check()
    assert raised.value.exit_code == 6
    return str(raised.value).removesuffix(". The platform must replace this worker.")


def test_the_first_failure_counts_and_each_has_its_traceback(supervisor, caplog):
    for name in ("first", "second"):
        thread = supervisor.thread(name, fail)
        thread.start()
        thread.join()
    assert failure(supervisor) == "The worker's first ended by SystemExit"
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    late = []
    supervisor.on_failure(lambda: late.append("told at once"))
    assert late == ["told at once"]


def test_what_returns_or_is_cancelled_is_no_failure(supervisor):
    async def main():
        task = asyncio.create_task(asyncio.Event().wait())
        supervisor.watch("task", task)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    thread = supervisor.thread("thread", lambda: None)
    thread.start()
    thread.join()
    asyncio.run(main())
    assert supervisor.failure == ""
    supervisor.check()


def test_the_watch_for_freezes(supervisor):
    clock = AwakeClock()
    clock.tick = fail
    with clock.ticking(supervisor):
        assert failure(supervisor) == "The worker's watch for freezes ended by SystemExit"


def test_the_monitor(supervisor):
    """A sample that fails is logged once, and the next one is taken."""
    with running_stand_in() as (_, runtime):
        monitor = Monitor(
            runtime, None, 1, CostMeter(None, 0.0), None, supervisor, sample_interval_seconds=0.01
        )
        monitor._sample = fail
        with monitor:
            assert failure(supervisor) == "The worker's monitor ended by SystemExit"


def test_a_sample_of_the_monitor_that_fails_again_and_again_is_logged_once(supervisor, caplog):
    samples, done = [], threading.Event()

    async def sample():
        samples.append(1)
        if len(samples) == 5:
            done.set()
        raise ValueError("planned")

    with running_stand_in() as (_, runtime):
        monitor = Monitor(
            runtime, None, 1, CostMeter(None, 0.0), None, supervisor, sample_interval_seconds=0.01
        )
        monitor._sample = sample
        with monitor:
            assert done.wait(60)
    logged = [record for record in caplog.records if "sample" in record.message]
    assert len(logged) == 1
    assert supervisor.failure == ""


async def broken():
    raise RuntimeError("planned")


async def early():
    pass


@pytest.mark.parametrize(
    ("serve", "error"), [(broken, "RuntimeError"), (early, "ServerEnded")], ids=["raises", "ends"]
)
def test_an_http_server(supervisor, serve, error):
    server = HttpServer(None, "127.0.0.1", {"PORT": 0}, supervisor)
    server._server.serve = lambda sockets: serve()
    with server:
        assert failure(supervisor) == f"The worker's HTTP server ended by {error}"


def test_an_http_server_that_is_stopped(supervisor):
    with HttpServer(None, "127.0.0.1", {"PORT": 0}, supervisor) as server:
        while not server._server.started:
            time.sleep(0.01)
    server._thread.join()
    assert supervisor.failure == ""


def test_the_note_of_the_caches_use(supervisor, tmp_path, monkeypatch):
    with CompileCache(
        tmp_path,
        root_is_required=True,
        key="key",
        volume=None,
        environ={},
        max_bytes=1 << 30,
        use_interval_seconds=0.01,
        supervisor=supervisor,
    ) as cache:
        monkeypatch.setattr(compile_cache, "note_use", fail)
        cache.bound_folders()
        assert failure(supervisor) == "The worker's note of the cache's use ended by SystemExit"
