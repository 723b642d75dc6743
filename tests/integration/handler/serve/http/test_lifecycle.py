"""The HTTP front end from its start to its end."""

import threading

import httpx
import pytest

from handler.errors import InvalidSetting
from handler.serve.http.lifecycle import HttpFrontEnd
from tests.support.conditions import wait_until
from tests.support.http_front_end import RunningFrontEnd, message
from tests.support.http_worker import free_port


def test_a_ping_says_where_the_worker_is():
    """204 while it starts, 200 when it is ready, 503 while it drains; it needs no key."""
    with RunningFrontEnd() as http:
        assert http.ping() == 204
        starting = http.call("GET", "/v1/models")
        assert (starting.status_code, message(starting)) == (503, "The engine is starting.")
        assert starting.headers["retry-after"] == "5"
        http.open()
        assert http.ping() == 200
        waiting = threading.Thread(target=http.complete, args=("wait",))
        waiting.start()
        wait_until(lambda: http.engine.running_requests == 1)
        http.terminate()
        wait_until(lambda: http.ping() == 503)
        draining = http.complete()
        assert (draining.status_code, message(draining)) == (503, "The worker is being stopped.")
        http.engine.may_answer.set()
        waiting.join()
        http.finish()


def test_the_health_check_path_says_the_same_without_a_key():
    with RunningFrontEnd(HEALTH_CHECK_PATH="/healthz", RUNPOD_ENDPOINT_ID="e") as http:
        assert http.call("GET", "/healthz", key=None).status_code == 204
        http.open()
        answers = [http.call("GET", path, key=None) for path in ("/healthz", "/ping", "/health")]
        assert [answer.status_code for answer in answers] == [200, 200, 401]


def test_a_second_signal_fails_what_still_runs():
    """Without waiting for the rest of DRAIN_TIMEOUT."""
    answers = []
    with RunningFrontEnd(DRAIN_TIMEOUT="3600") as http:
        http.open()
        waiting = threading.Thread(target=lambda: answers.append(http.complete("wait")))
        waiting.start()
        wait_until(lambda: http.engine.running_requests == 1)
        http.terminate()
        wait_until(lambda: http.ping() == 503)
        http.terminate()
        http.finish()
        waiting.join()
    [answer] = answers
    assert (answer.status_code, message(answer)) == (
        503,
        "The worker was stopped before the response was complete.",
    )


def test_a_health_port_of_its_own_answers_a_ping_and_nothing_else():
    """What a platform's health check reaches, nobody else may use."""
    health = free_port()
    with RunningFrontEnd(PORT_HEALTH=str(health)) as http:
        http.open()
        url = f"http://127.0.0.1:{health}"
        assert httpx.get(f"{url}/ping", timeout=60).status_code == 200
        headers = {"Authorization": "Bearer one"}
        other = httpx.get(f"{url}/v1/models", headers=headers, timeout=60)
        assert other.status_code == 404


def test_a_port_that_is_taken_is_refused():
    """With its name."""
    with RunningFrontEnd() as http, pytest.raises(InvalidSetting) as raised:
        HttpFrontEnd(http.settings)
    assert str(raised.value) == (
        f"PORT={http.settings.http_port} on 0.0.0.0 is not available: Address already in use."
    )


def test_the_playground_can_be_turned_off(http):
    """It is a page that needs no key and loads nothing from anywhere."""
    page = httpx.get(f"{http.url}/", timeout=60)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "http" not in page.text
    with RunningFrontEnd(PLAYGROUND="0") as without:
        assert without.open().call("GET", "/").status_code == 404


def test_a_dead_engine_fails_what_runs_and_ends_the_front_end(http):
    """Each request gets an answer, and the ping says so before it is gone."""
    stream = []

    def read():
        body = {"prompt": "endless", "stream": True}
        stream.append(http.call("POST", "/v1/completions", json=body).text)

    threads = [threading.Thread(target=read)]
    threads.append(threading.Thread(target=lambda: stream.append(http.complete("wait"))))
    for thread in threads:
        thread.start()
    wait_until(lambda: http.engine.running_requests == 2)
    http.engine.alive = False
    for thread in threads:
        thread.join(60)
    http.finish()
    assert str(http.failure) == "The engine died. The platform must replace this worker."
    plain = next(each for each in stream if not isinstance(each, str))
    streamed = next(each for each in stream if isinstance(each, str))
    assert (plain.status_code, plain.json()["error"]["type"]) == (503, "ServiceUnavailableError")
    assert '"code": 503' in streamed.strip().rpartition("\n\n")[2]


def test_a_thread_that_ends_by_an_exception_fails_what_runs_and_ends_the_front_end(http):
    """Like the engine's death; the ping says so before it is gone."""
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(http.complete("wait")))
    waiting.start()
    wait_until(lambda: http.engine.running_requests == 1)

    def fail():
        raise RuntimeError("planned")

    http.supervisor.thread("monitor", fail).start()
    waiting.join(60)
    http.finish()
    [answer] = answers
    assert (answer.status_code, message(answer)) == (
        503,
        "The worker failed; it is being replaced.",
    )
    assert str(http.failure) == (
        "The worker's monitor ended by RuntimeError. The platform must replace this worker."
    )
    assert http.ping() == 503
