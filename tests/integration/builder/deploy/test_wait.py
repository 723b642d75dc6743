"""The wait for the first worker and its answer, and every way in which it ends."""

import os
import signal
import threading

import pytest

from tests.integration.builder.deploy.conftest import CHAT, eventually
from tests.support.runpod_api import Fault


@pytest.mark.parametrize(
    ("states", "more", "sentence"),
    [
        pytest.param(
            [{"throttled": 2}],
            [],
            "After 1 s every worker is throttled: there is no capacity in ADA_24; add pools (--gpu "
            "A,B), or try again later.",
            id="throttled",
        ),
        pytest.param(
            [{}],
            ["--volume", "vol-1"],
            "After 1 s no worker got a GPU: there is no capacity in ADA_24 in the data centre of "
            "its network volume; add pools (--gpu A,B), or try again later.",
            id="never-placed",
        ),
        pytest.param(
            [{"initializing": 1}],
            [],
            "After 1 s a worker is still starting: see python -m builder logs chat, and wait "
            "longer (--wait; a start of more than 7 minutes needs -e RUNPOD_INIT_TIMEOUT=SECONDS).",
            id="starting",
        ),
        pytest.param(
            [{"unhealthy": 1}],
            [],
            "After 1 s a worker is unhealthy: see python -m builder logs chat.",
            id="unhealthy",
        ),
    ],
)
def test_no_healthy_worker_in_time(states, more, sentence, api, builder):
    api.states = states
    code, _, err = builder("deploy", *CHAT, *more, "--wait", "1")
    assert (code, err) == (8, f"deploy: {sentence}\n")
    assert api.cancelled == ["/cancel/job-1"]


def test_a_load_balancer_without_a_worker(api, builder):
    api.states = [{"throttled": 1}]
    code, _, err = builder("deploy", *CHAT, "--type", "lb", "--wait", "1")
    assert (code, err) == (
        8,
        "deploy: After 1 s every worker is throttled: there is no capacity in ADA_24; add pools "
        "(--gpu A,B), or try again later.\n",
    )


def test_a_worker_that_fails_on_the_first_job(api, builder):
    api.job_error = "model org/model: no such repository."
    code, _, err = builder("deploy", *CHAT)
    assert (code, err) == (
        8,
        "deploy: A worker started and failed on the first job: model org/model: no such "
        "repository.\n",
    )


def test_an_endpoint_that_is_not_at_its_address_yet(api, builder):
    api.faults = [Fault("GET", "/workers", 404), Fault("POST", "/run", 404)]
    code, out, err = builder("deploy", *CHAT)
    assert (code, err) == (0, "")
    assert "900 s\nN s  no worker\nN s  1 ready\nN s  a worker answers\n" in out


def test_an_endpoint_that_may_have_no_worker_is_not_waited_for(builder):
    code, out, _ = builder("deploy", *CHAT, "--max", "0")
    assert code == 0
    assert "(ep-4)\nworkers.max is 0: no worker will start, so no test request is sent\n" in out


def test_a_load_balancer_whose_workers_want_a_key_of_their_own(api, builder):
    keyed = (*CHAT, "--type", "lb", "-e", "API_KEY={{ RUNPOD_SECRET_mine }}")
    code, out, _ = builder("deploy", *keyed)
    assert code == 0
    told = "the workers require API_KEY beside Runpod's key: no test request is sent\n"
    assert f"(ep-4)\n{told}\nAPI/balancer/ep-4/v1\n" in out


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        pytest.param(
            (500, {"error": {"message": "The engine died.", "type": "x", "code": 500}}),
            "The test request was answered with 500: The engine died.",
            id="500",
        ),
        pytest.param(
            (200, {"hello": "world"}),
            "The answer to the test request is not a chat completion: check "
            "API/queue/ep-4/openai/v1/chat/completions.",
            id="something-else",
        ),
    ],
)
def test_an_endpoint_that_does_not_answer_the_test_request(answer, sentence, api, builder):
    api.answer = lambda: answer
    code, _, err = builder("deploy", *CHAT)
    assert (code, err) == (9, f"deploy: {sentence}\n")


def test_a_model_that_reasons_or_embeds(api, builder):
    message = {"content": None, "reasoning": "The user asks"}
    api.answer = lambda: (200, {"choices": [{"message": message}]})
    assert "answers\nThe user asks\n\nAPI/" in builder("deploy", *CHAT)[1]
    assert (
        "answers\nthe model returns embeddings, not text: no test request is sent\n\nAPI/"
        in builder("deploy", *CHAT, "-e", "RUNNER=pooling")[1]
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_waiting_says_what_is_there_and_how_to_go_on(number, api, builder):
    api.states = [{}, {"initializing": 1}]

    def interrupt():
        if eventually(lambda: ("GET", "/queue/ep-4/status/job-1", None) in api.asked):
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, _, err = builder("deploy", *CHAT)
    thread.join()
    assert (code, err) == (
        1,
        "deploy: interrupted; created template chat (tpl-3) and created endpoint chat (ep-4): "
        "repeat the command to continue, or run python -m builder delete chat to remove it.\n",
    )
    assert api.cancelled == ["/cancel/job-1"]
