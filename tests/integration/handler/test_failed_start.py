"""Failed starts on the platform in small: what callers get, what the platform gets, and the exit.

The rows are those of docs/failed-starts.md; none needs a running engine.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import requests

from runpod_local import running_platform, running_worker
from tests.support import failed_starts
from tests.support.environment import START_SECONDS, WORKER, worker_environment
from tests.support.failed_starts import assert_lasting, assert_of_this_host, pings
from tests.support.http_worker import KEY, free_port, running_http_worker
from tests.support.hub import Fault, Repository, running_hub
from tests.support.model_folders import cached_snapshot, model_folder

INPUTS = (
    {"prompt": "x"},
    {"openai_route": "/v1/chat/completions", "openai_input": {"stream": True, "messages": []}},
    {"batch": [{"prompt": "x"}]},
)
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4976698672\n"
INVALID = {"MAX_CONCURRENCY": "many"}
INVALID_REASON = "MAX_CONCURRENCY='many' must be 'auto' or a valid integer."


def start(platform, home, **environ):
    """Run a worker to its end; return it."""
    return failed_starts.start(
        platform, WORKER, worker_environment(**{"HOME": str(home)} | environ)
    )


def faulty_host(fault, folder="none"):
    """Return the command of a worker on a host with a fault."""
    return [sys.executable, "-m", "tests.support.faulty_host", fault, str(folder)]


def damaged(tmp_path):
    folder = model_folder(tmp_path / "m", model__safetensors="w")
    (folder / "model.safetensors").write_text(LFS_POINTER)
    return {"MODEL_NAME": str(folder)}


def config_file(tmp_path):
    (tmp_path / "flags.yaml").write_text("log-format: xml")
    return {"VLLM_CONFIG_FILE": str(tmp_path / "flags.yaml")}


LASTING = {
    "setting": (lambda _: INVALID, 2, INVALID_REASON),
    "config file": (config_file, 2, "LOG_FORMAT='xml' must be 'text' or 'json'."),
    "contradiction": (lambda _: {"QUANTIZATION": "fp8"}, 2, "contradicts the checkpoint"),
    "path": (lambda _: {"MODEL_NAME": "/none"}, 3, "is a path that does not exist"),
    "no config file": (lambda _: {"VLLM_CONFIG_FILE": "/no.yaml"}, 2, "must be an existing file"),
    "damaged": (damaged, 3, "model.safetensors is a Git LFS pointer"),
}


@pytest.mark.parametrize(("environ", "code", "reason"), LASTING.values(), ids=LASTING)
def test_a_lasting_cause_fails_every_job_and_is_the_last_line(tmp_path, environ, code, reason):
    """Plain, streamed and batch jobs alike, with an OpenAI error object; no report is sent."""
    with running_platform() as platform:
        names = [platform.submit(job_input) for job_input in INPUTS]
        done = start(platform, tmp_path, **environ(tmp_path))
        jobs = [platform.job(name) for name in names]
        assert not any(ping.status for ping in pings(platform))
    assert done.returncode == code
    last = done.stderr.splitlines()[-1]
    assert reason in last
    assert [job.state for job in jobs] == ["FAILED"] * len(INPUTS)
    expected = {
        "message": f"The worker cannot start. {last}",
        "type": "ServiceUnavailableError",
        "param": None,
        "code": 503,
    }
    assert [json.loads(job.error) for job in jobs] == [{"error": expected}] * len(INPUTS)


def hub_environment(tmp_path, url, **more):
    return worker_environment(
        HOME=str(tmp_path),
        HF_ENDPOINT=url,
        HF_HUB_DISABLE_XET="1",
        BASE_PATH=str(tmp_path / "none"),
        **{"MODEL_NAME": "org/m"} | more,
    )


REFUSED_BY_THE_HUB = {
    "gated": ({"gated": True}, {}, "org/m: it is gated: accept its licence"),
    "private": ({"private": True}, {}, "no such repository on the hub, or it is private"),
    "mistyped": ({}, {"MODEL_NAME": "org/n"}, "org/n: no such repository on the hub"),
    "revision": ({}, {"MODEL_REVISION": "v9"}, "org/m has no revision 'v9' (MODEL_REVISION)."),
    "token": ({}, {"HF_TOKEN": "hf_wrong"}, "HF_TOKEN is not valid"),
}


@pytest.mark.parametrize(
    ("options", "environ", "reason"), REFUSED_BY_THE_HUB.values(), ids=REFUSED_BY_THE_HUB
)
def test_what_the_hub_refuses_is_lasting(tmp_path, options, environ, reason):
    """It is known before a file is asked for."""
    folder = model_folder(tmp_path / "m", model__safetensors="w")
    with running_platform() as platform, running_hub(m=Repository(folder, **options)) as hub:
        given = hub_environment(tmp_path, hub.url, **environ)
        worker = [sys.executable, "-m", "tests.support.patient", "handler"]
        assert reason in assert_lasting(platform, worker, given, 3)
        assert not any("/resolve/" in path for _, path, _ in hub.asked)


FAILURES_OF_THE_HUB = {
    "5xx": (Fault("", times=99, status=503), "the hub answered 503: try again later"),
    "429": (Fault("", times=99, status=429), "the hub answered 429, too many requests"),
    "CDN": (Fault("model.safetensors", times=99, status=403), "org/m: the hub answered 403: "),
    "silent": (Fault("", times=99, silent=True), "accepted the connection and sent no data"),
}


@pytest.mark.parametrize(("fault", "reason"), FAILURES_OF_THE_HUB.values(), ids=FAILURES_OF_THE_HUB)
def test_what_the_hub_cannot_do_now_is_not_lasting(tmp_path, fault, reason):
    folder = model_folder(tmp_path / "m", model__safetensors="w")
    worker = faulty_host("short patience") if fault.silent else WORKER
    with running_platform() as platform, running_hub(m=Repository(folder)) as hub:
        hub.faults.append(fault)
        environ = hub_environment(tmp_path, hub.url)
        assert reason in assert_of_this_host(platform, worker, environ, 3, "model")


@pytest.mark.parametrize(
    ("environ", "reason"),
    [({}, "cannot be reached"), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")],
    ids=["no network", "offline"],
)
def test_a_hub_that_is_not_there_is_not_lasting(tmp_path, environ, reason):
    given = hub_environment(tmp_path, f"http://127.0.0.1:{free_port()}", **environ)
    with running_platform() as platform:
        assert reason in assert_of_this_host(platform, WORKER, given, 3, "model")


def test_a_disk_that_is_smaller_than_the_model_is_lasting_and_a_full_one_is_not(tmp_path):
    folder = model_folder(tmp_path / "m", model__safetensors="w")
    reason = "0.0 GB too few are free."
    with running_platform() as platform, running_hub(m=Repository(folder)) as hub:
        environ = hub_environment(tmp_path, hub.url)
        last = assert_lasting(platform, faulty_host("small disk"), environ, 3)
        assert last.endswith(reason)
    with running_platform() as platform, running_hub(m=Repository(folder)) as hub:
        environ = hub_environment(tmp_path, hub.url)
        last = assert_of_this_host(platform, faulty_host("full disk"), environ, 3, "model")
        assert last.endswith(reason)


def test_a_mount_that_is_missing_is_not_lasting(tmp_path):
    """A folder that does not exist, below a volume that is not mounted."""
    volume = tmp_path / "volume"
    environ = worker_environment(MODEL_NAME=f"{volume}/m", BASE_PATH=str(volume))
    with running_platform() as platform:
        reason = assert_of_this_host(platform, WORKER, environ, 3, "model")
    assert reason.endswith("is a path that does not exist: check the mount of the volume.")


def test_a_damaged_model_in_the_platforms_cache_is_not_lasting(tmp_path):
    """Each host has its own copy."""
    snapshot = cached_snapshot(tmp_path, "models--org--m", "main")
    (snapshot / "model.safetensors").write_text(LFS_POINTER)
    environ = worker_environment(MODEL_NAME="org/m", HOME=str(tmp_path))
    worker = faulty_host("platform's cache", tmp_path)
    with running_platform() as platform:
        reason = assert_of_this_host(platform, worker, environ, 3, "model")
    assert "model.safetensors is a Git LFS pointer" in reason


@pytest.mark.parametrize(
    ("fault", "code", "check", "reason"),
    [
        ("failing disk", 2, "settings", "flags.yaml cannot be read: [Errno 5] Input/output error"),
        ("engine", 4, "engine", "The engine did not start: CUDA out of memory: 80 GiB wanted"),
        ("unexpected", 1, "worker", "RuntimeError: a bug"),
    ],
)
def test_what_another_host_may_not_meet_is_reported_and_takes_no_job(
    tmp_path, fault, code, check, reason
):
    environ = worker_environment(HOME=str(tmp_path))
    if fault == "failing disk":
        environ |= config_file(tmp_path)
    with running_platform() as platform:
        assert reason in assert_of_this_host(platform, faulty_host(fault), environ, code, check)


@pytest.mark.parametrize(
    ("fault", "code", "last"),
    [
        ("engine dies", 5, "The engine died. The platform must replace this worker."),
        (
            "thread ends",
            6,
            "The worker's monitor ended by RuntimeError. The platform must replace this worker.",
        ),
        ("serve fails", 1, "RuntimeError: a bug"),
    ],
)
def test_what_ends_a_worker_after_its_start_is_not_reported_as_a_failed_start(
    tmp_path, fault, code, last
):
    with running_platform() as platform:
        environ = worker_environment("awq", HOME=str(tmp_path))
        done = failed_starts.start(platform, faulty_host(fault), environ)
        assert not any(ping.status for ping in pings(platform))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (code, last)
    assert "ready for 8 jobs at once as stand-in" in done.stdout


PATIENCE_SECONDS = 60  # of the platforms below; a report is to have much less


@contextmanager
def silent_platform(begins_to_answer):
    """A platform that does not answer a report to its end; yield its address, and who has left.

    The list gets "worker" if the worker has closed the connection, "platform" if it has waited.
    """
    left = []

    def answer():
        connection = listener.accept()[0]
        until = time.monotonic() + PATIENCE_SECONDS
        with connection:
            connection.settimeout(0.2)
            if begins_to_answer:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while time.monotonic() < until:
                try:
                    if begins_to_answer:
                        connection.sendall(b"x")
                    if not connection.recv(65536):
                        return left.append("worker")
                except ConnectionError:
                    return left.append("worker")
                except TimeoutError:
                    pass
            left.append("platform")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(START_SECONDS)
        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/ping/$RUNPOD_POD_ID", left
        thread.join()


@pytest.mark.parametrize("begins_to_answer", [False, True], ids=["silent", "endless answer"])
def test_a_platform_that_does_not_answer_the_report_is_not_waited_for(tmp_path, begins_to_answer):
    """The worker leaves; the platform would wait for a minute."""
    environ = worker_environment(
        "awq", HOME=str(tmp_path), HF_ENDPOINT=f"http://127.0.0.1:{free_port()}"
    )
    environ |= {"MODEL_NAME": "org/m", "BASE_PATH": str(tmp_path / "none")}
    with running_platform() as platform, silent_platform(begins_to_answer) as (url, left):
        environ |= platform.worker_environment() | {"RUNPOD_WEBHOOK_PING": url}
        done = subprocess.run(
            WORKER, env=environ, capture_output=True, text=True, timeout=START_SECONDS
        )
    assert left == ["worker"]
    assert done.returncode == 3
    assert "cannot be reached" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("fault", ["idle thread", "failed start"])
def test_a_failure_while_jobs_are_failed_ends_with_the_starts_own_reason_and_code(tmp_path, fault):
    """The thread that ends an idle worker, or what starts it."""
    environ = worker_environment(HOME=str(tmp_path), STARTUP_ERROR_SECONDS="1", **INVALID)
    with running_platform() as platform:
        done = failed_starts.start(platform, faulty_host(fault), environ)
    *lines, last = done.stderr.splitlines()
    assert (done.returncode, last) == (2, INVALID_REASON)
    assert "a bug" in done.stdout + "".join(lines)


def test_zero_seconds_takes_no_job_and_reports_a_lasting_cause_too(tmp_path):
    """For an endpoint with several kinds of GPUs, where another worker may answer."""
    environ = worker_environment(HOME=str(tmp_path), STARTUP_ERROR_SECONDS="0", **INVALID)
    with running_platform() as platform:
        reason = assert_of_this_host(platform, WORKER, environ, 2, "settings")
    assert reason == INVALID_REASON


def test_each_job_begins_the_idle_time_anew(tmp_path):
    idle_seconds = 12.0
    environ = worker_environment(
        HOME=str(tmp_path), STARTUP_ERROR_SECONDS=str(idle_seconds), **INVALID
    )
    with running_platform() as platform, running_worker(platform, WORKER, environ) as worker:
        first = platform.wait(platform.submit(INPUTS[0]), START_SECONDS)
        time.sleep(idle_seconds / 2)
        second = platform.wait(platform.submit(INPUTS[0]), 60)
        assert worker.wait(60) == 2
        ended = time.monotonic()
    assert [job.state for job in (first, second)] == ["FAILED"] * 2
    assert ended - second.taken_at > idle_seconds


def test_an_invalid_number_of_seconds_is_itself_told(tmp_path):
    """For the default of 60 s, until a signal ends it in order."""
    environ = worker_environment("awq", HOME=str(tmp_path), STARTUP_ERROR_SECONDS="soon")
    log = (tmp_path / "log").open("wb")
    with (
        log,
        running_platform() as platform,
        running_worker(platform, WORKER, environ, log=log) as worker,
    ):
        job = platform.wait(platform.submit(INPUTS[0]))
        assert "STARTUP_ERROR_SECONDS='soon' must be " in job.error
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 2
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith("STARTUP_ERROR_SECONDS='soon' must be ")


@pytest.mark.parametrize(
    ("cause", "code"), [(INVALID, 2), ({"MODEL_NAME": "/none"}, 3)], ids=["setting", "model"]
)
def test_metrics_of_a_failed_start_say_its_exit_code(tmp_path, cause, code):
    """On METRICS_PORT, where /ping answers 503; without a key no reason is said.

    Where the settings were valid, the port was open before.
    """
    port = free_port()
    environ = worker_environment(HOME=str(tmp_path), METRICS_PORT=str(port), **cause)
    with (
        (tmp_path / "log").open("wb") as log,
        running_platform() as platform,
        running_worker(platform, WORKER, environ, log=log) as worker,
    ):
        platform.wait(platform.submit(INPUTS[0]))
        url = f"http://127.0.0.1:{port}"
        ping, metrics = (requests.get(f"{url}/{path}", timeout=30) for path in ("ping", "metrics"))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == code
    assert (ping.status_code, ping.text, metrics.status_code) == (503, "", 200)
    lines = [line for line in metrics.text.splitlines() if not line.startswith("#")]
    assert lines == [f'llm_worker_start_failed{{exit_code="{code}"}} 1.0']


def test_a_port_of_metrics_that_is_in_use_is_of_this_host(tmp_path):
    with socket.create_server(("0.0.0.0", 0)) as other, running_platform() as platform:
        port = str(other.getsockname()[1])
        environ = worker_environment(HOME=str(tmp_path), METRICS_PORT=port)
        reason = assert_of_this_host(platform, WORKER, environ, 2, "settings")
    assert reason.startswith(f"METRICS_PORT={port}")


# ---- HTTP ----

CHAT = {"messages": [{"role": "user", "content": "x"}]}


def http_environment(tmp_path, **environ):
    # Its reason comes with the settings' own errors: the port is read nevertheless.
    return worker_environment("awq", HOME=str(tmp_path), HTTP_HOST="127.0.0.1", **environ)


def wait_until_listening(worker):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            return requests.get(f"{worker.base_url}/ping", timeout=30).status_code
        except requests.ConnectionError:
            time.sleep(0.05)
    raise TimeoutError("nothing listens")


def test_http_answers_503_with_the_reason_until_no_request_comes(tmp_path):
    """/ping needs no key and says no reason; Anthropic's routes have Anthropic's object."""
    environ = http_environment(tmp_path, STARTUP_ERROR_SECONDS="12", **INVALID)
    with (
        (tmp_path / "log").open("wb") as log,
        running_http_worker(WORKER, environ, ready_within_seconds=None, log=log) as worker,
    ):
        assert wait_until_listening(worker) == 503
        headers = {"authorization": f"Bearer {KEY}"}
        url = worker.base_url
        chat = requests.post(f"{url}/v1/chat/completions", json=CHAT, headers=headers, timeout=30)
        messages = requests.post(f"{url}/v1/messages", json=CHAT, headers=headers, timeout=30)
        page = requests.get(f"{url}/", headers=headers, timeout=30)
        metrics = requests.get(f"{url}/metrics", headers=headers, timeout=30)
        without_key = requests.post(f"{url}/v1/chat/completions", json=CHAT, timeout=30)
        assert worker.process.wait(60) == 2
    message = f"The worker cannot start. {INVALID_REASON}"
    assert chat.json()["error"] == {
        "message": message,
        "type": "ServiceUnavailableError",
        "param": None,
        "code": 503,
    }
    assert messages.json()["error"] == {"type": "overloaded_error", "message": message}
    statuses = [each.status_code for each in (chat, messages, page, metrics, without_key)]
    assert statuses == [503, 503, 503, 503, 401]
    assert "MAX_CONCURRENCY" not in without_key.text
    assert (tmp_path / "log").read_text().splitlines()[-1] == INVALID_REASON


def test_who_has_no_key_keeps_no_failed_worker(tmp_path):
    environ = http_environment(tmp_path, STARTUP_ERROR_SECONDS="12", **INVALID)
    with running_http_worker(WORKER, environ, ready_within_seconds=None) as worker:
        assert wait_until_listening(worker) == 503
        until, statuses = time.monotonic() + 60, set()
        while worker.process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(requests.ConnectionError):
                answer = requests.get(f"{worker.base_url}/v1/models", timeout=30)
                statuses.add(answer.status_code)
                requests.get(f"{worker.base_url}/", timeout=30)
            time.sleep(0.2)
        assert worker.process.poll() == 2
    assert statuses == {401}


def test_a_key_that_is_the_cause_tells_no_caller(tmp_path):
    """The reason is in the log only."""
    environ = http_environment(tmp_path)
    from tests.support import http_worker

    with pytest.MonkeyPatch.context() as patch, (tmp_path / "log").open("wb") as log:
        patch.setattr(http_worker, "KEY", '["a"]')
        with running_http_worker(WORKER, environ, ready_within_seconds=None, log=log) as worker:
            assert wait_until_listening(worker) == 503
            answer = requests.get(f"{worker.base_url}/v1/models", timeout=30)
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(60) == 2
    message = "The worker cannot start; its log has the reason."
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, message)
    assert (tmp_path / "log").read_text().splitlines()[-1].startswith("API_KEY must be one or ")
