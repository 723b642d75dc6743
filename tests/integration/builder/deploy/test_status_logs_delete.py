"""`status`, `logs` and `delete`."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.integration.builder.deploy.conftest import CHAT, TIMEOUTS, eventually
from tests.support.environment import ROOT, clean_environment
from tests.support.runpod_api import KEY, Fault

WORKER = {
    "id": "w-1",
    "status": "RUNNING",
    "isStale": True,
    "gpuTypeId": "NVIDIA L4",
    "dataCenterId": "US-KS-2",
    "uptimeSeconds": 3600,
}
WAITING = {"id": "w-2", "status": "THROTTLED", "isStale": False, "gpuTypeId": None}


def test_status_of_a_queue(api, builder):
    builder("deploy", *CHAT, "--wait", "0")
    api.workers = [WORKER, WAITING]
    api.states = [{"running": 1, "throttled": 1}]
    api.jobs = {"inQueue": 4, "inProgress": 1, "completed": 72, "failed": 2, "retried": 3}
    assert builder("status", "chat") == (
        0,
        """\
endpoint  chat (ep-4), QUEUE
address   API/queue/ep-4/openai/v1
image     me/worker:1
GPUs      1 of ADA_24
workers   1 ready, 1 throttled (min 0, max 3)
  w-1  RUNNING, NVIDIA L4, US-KS-2, for 3600 s, of an older version
  w-2  THROTTLED
jobs      4 in the queue, 1 in progress, 72 completed, 2 failed, 3 retried
""",
        "",
    )


def test_status_of_a_load_balancer_and_of_nothing(api, builder):
    builder("deploy", *CHAT, "--wait", "0", "--type", "lb")
    api.states = [{}]
    assert (
        builder("status", "chat")[1]
        == """\
endpoint  chat (ep-4), LOAD_BALANCER
address   API/balancer/ep-4/v1
image     me/worker:1
GPUs      1 of ADA_24
workers   no worker (min 0, max 3)
"""
    )
    assert builder("status", "talk") == (
        5,
        "",
        "status: There is no endpoint named talk: python -m builder deploy creates one.\n",
    )


LINES = [(f"2026-06-01T12:00:0{second}Z", f"line {second}") for second in range(4)]


def test_logs_of_all_workers(api, builder):
    builder("deploy", *CHAT, "--wait", "0")
    api.workers = [WORKER, WAITING]
    api.logs = {"w-1": LINES, "w-2": LINES[:1]}
    api.keep_open = True
    assert builder("logs", "chat", "--tail", "2") == (
        0,
        "w-1  2026-06-01T12:00:02Z  line 2\nw-1  2026-06-01T12:00:03Z  line 3\n"
        "w-2  2026-06-01T12:00:00Z  line 0\n",
        "",
    )


def test_an_answer_that_is_late_is_waited_for(api, builder):
    """Longer than for a further line."""
    builder("deploy", *CHAT, "--wait", "0")
    api.workers, api.logs = [WORKER], {"w-1": LINES[:1]}
    api.faults = [Fault("GET", "/w-1/logs", late_seconds=1.5 * TIMEOUTS.log_idle)]
    assert builder("logs", "chat") == (0, "w-1  2026-06-01T12:00:00Z  line 0\n", "")


def test_logs_of_workers_of_which_one_has_just_ended(api, builder):
    builder("deploy", *CHAT, "--wait", "0")
    api.workers = [WORKER, WAITING]
    api.logs = {"w-2": LINES[:1]}
    assert builder("logs", "chat") == (
        0,
        "w-1 has just ended, so its logs are gone\nw-2  2026-06-01T12:00:00Z  line 0\n",
        "",
    )


def test_a_closed_pipe_ends_followed_logs_and_leaves_changes_complete(api):
    api.workers = [WORKER]
    api.logs = {"w-1": LINES}
    api.keep_open = True
    for command in (["deploy", *CHAT, "--wait=0"], ["status", "chat"], ["logs", "chat", "-f"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "builder", *command],
            cwd=ROOT,
            env=clean_environment(RUNPOD_API_KEY=KEY, RUNPOD_API_URL=api.url),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, "")
    assert [each["name"] for each in api.endpoints.values()] == ["chat"]


def test_logs_that_are_followed_go_on_where_a_stream_broke(api, builder):
    builder("deploy", *CHAT, "--wait", "0")
    api.workers = [WORKER]
    api.logs = {"w-1": LINES[:2]}

    def more():
        eventually(lambda: api.streams >= 2)
        api.logs = {"w-1": LINES}
        eventually(lambda: api.streams >= 5)
        api.logs = {}

    thread = threading.Thread(target=more)
    thread.start()
    code, out, err = builder("logs", "chat", "--follow")
    thread.join()
    assert (code, err) == (0, "")
    assert out == "".join(f"w-1  {ts}  {line}\n" for ts, line in LINES)


def test_control_c_ends_logs_that_are_followed(api, builder):
    builder("deploy", *CHAT, "--wait", "0")
    api.workers = [WORKER]
    api.logs = {"w-1": LINES}
    api.keep_open = True

    def interrupt():
        if eventually(lambda: api.streams):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, _, err = builder("logs", "chat", "--follow")
    thread.join()
    assert (code, err) == (1, "logs: interrupted\n")


def test_logs_of_a_worker_that_is_not_there_and_of_an_endpoint_without(api, builder):
    builder("deploy", *CHAT, "--wait", "0")
    assert builder("logs", "chat") == (
        0,
        "chat has no worker at the moment, and so no logs\n",
        "",
    )
    assert builder("logs", "chat", "--worker", "w-9") == (
        5,
        "",
        "logs: Runpod cannot find worker w-9, or RUNPOD_API_KEY has no access to it (resource not "
        "found).\n",
    )


def test_delete_removes_the_endpoint_and_its_template(api, builder):
    builder("deploy", *CHAT, "--wait", "0")
    what = "endpoint chat (ep-4) and template chat (tpl-3)"
    assert builder("delete", "chat", "--yes") == (0, f"deleted {what}\n", "")
    assert (api.endpoints, api.templates) == ({}, {})
    assert builder("delete", "chat", "--yes") == (
        5,
        "",
        "delete: There is no endpoint and no template named chat.\n",
    )


def test_delete_refuses_while_jobs_are_in_progress(api, builder):
    builder("deploy", *CHAT, "--wait", "0")
    api.jobs = {"inProgress": 2, "inQueue": 1}
    assert builder("delete", "chat", "--yes") == (
        10,
        "",
        "delete: chat has 2 jobs in progress and 1 in the queue: wait for them, or give --force.\n",
    )
    assert builder("delete", "chat", "--yes", "--force")[0] == 0
    assert api.endpoints == {}


def test_delete_refuses_while_a_load_balancer_answers(api, builder):
    builder("deploy", *CHAT, "--wait", "0", "--type", "lb")
    api.states = [{"running": 2}]
    assert builder("delete", "chat", "--yes") == (
        10,
        "",
        "delete: chat has 2 workers that answer requests: wait for them, or give --force.\n",
    )


@pytest.mark.parametrize(
    ("typed", "code", "left"),
    [
        pytest.param("y\n", 0, 0, id="yes"),
        pytest.param("\n", 10, 1, id="enter"),
        pytest.param("\x04", 10, 1, id="ctrl-d"),
    ],
)
def test_delete_asks_on_a_terminal(typed, code, left, api, builder, monkeypatch):
    builder("deploy", *CHAT, "--wait", "0")
    control, terminal = os.openpty()
    with os.fdopen(control, "w") as keyboard, os.fdopen(terminal) as typed_in:
        keyboard.write(typed)
        keyboard.flush()
        monkeypatch.setattr(sys, "stdin", typed_in)
        got, out, _ = builder("delete", "chat")
    assert got == code
    assert out.startswith("Delete endpoint chat (ep-4) and template chat (tpl-3)? [y/N] ")
    assert len(api.endpoints) == left


def test_delete_asks_nobody_where_there_is_no_terminal(api, builder, monkeypatch):
    builder("deploy", *CHAT, "--wait", "0")
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        code, _, err = builder("delete", "chat")
    assert (code, err) == (
        10,
        "delete: Deleting endpoint chat (ep-4) and template chat (tpl-3) needs a confirmation, and "
        "stdin is not a terminal: give --yes.\n",
    )
    assert len(api.endpoints) == 1


def test_a_template_that_a_failed_deployment_left_can_be_deleted(api, builder):
    api.faults = [Fault("POST", "/v2/serverless", 402)]
    builder("deploy", *CHAT)
    assert builder("delete", "chat", "--yes") == (0, "deleted template chat (tpl-3)\n", "")
