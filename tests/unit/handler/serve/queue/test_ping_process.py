"""What the SDK's process of pings does beside its pings."""

import os
from typing import ClassVar

import pytest

from handler.serve.queue import ping_process
from handler.serve.queue.ping_process import PingProcess, run_pings
from handler.serve.queue.sdk_patches import import_sdk

import_sdk()

from runpod.serverless.modules import rp_ping  # noqa: E402


class Session:
    """The SDK's session of HTTP; `calls` of all of them."""

    calls: ClassVar[list[str]] = []

    def __init__(self):
        self.headers = {}

    def mount(self, *_):
        pass

    def get(self, url, params, timeout):
        self.calls.append(params["job_id"])
        return self

    url, status_code = "", 200

    def close(self):
        self.calls.append("close")


class Mirror:
    def get(self):
        return "a,b"


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setenv("RUNPOD_PING_INTERVAL", "0")
    monkeypatch.setattr(rp_ping, "SyncClientSession", Session)
    monkeypatch.setattr(Session, "calls", [])
    return Session.calls


@pytest.mark.parametrize(
    ("monotonic", "wall", "expected"),
    [
        (0.1, 0.1, ["a,b"]),
        (60.0, 60.0, ["close", "a,b"]),
        (0.1, 60.0, ["close", "a,b"]),
    ],
    ids=["awake", "frozen", "restored elsewhere"],
)
def test_a_ping_after_a_freeze_uses_new_connections(calls, monkeypatch, monotonic, wall, expected):
    clocks = iter([(0.0, 0.0), (monotonic, wall), (monotonic, wall)])
    monkeypatch.setattr(ping_process, "_clocks", lambda: next(clocks))
    run_pings(Mirror(), True)
    assert calls == expected


def test_a_process_whose_worker_has_gone_ends_without_a_ping(calls, monkeypatch):
    parents = iter([100, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    with pytest.raises(SystemExit):
        run_pings(Mirror(), True)
    assert calls == []


def test_the_process_is_the_workers_own(monkeypatch):
    """The SDK makes it with a function of its own and these arguments."""
    pings = PingProcess()
    process = pings.make(target=rp_ping.Heartbeat.process_loop, args=(None, False))
    assert (process._target, process._args) == (run_pings, (None, False))
    assert process.daemon
