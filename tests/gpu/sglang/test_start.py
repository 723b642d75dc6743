"""A worker with SGLang's CUDA build beside a simulated GPU: requests, cancellation, drain.

One worker serves all tests; the last one ends it.
"""

import json
import signal
import threading
import time

import httpx
import psutil
import pytest

from tests.gpu.sglang.conftest import ANSWER, PYTHON, tokens
from tests.support.conditions import wait_until
from tests.support.environment import START_SECONDS
from tests.support.expositions import value
from tests.support.http_worker import running_http_worker
from tests.support.processes import running

QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
STORY = {"prompt": "Once upon a time", "max_tokens": 5000, "ignore_eos": True, "stream": True}
CANCELLED = 'llm_worker_requests_total{outcome="cancelled",route="/v1/completions"}'
STEP_SECONDS = 0.012


@pytest.fixture(scope="module")
def worker(sglang_environment):
    """A worker that serves HTTP."""
    environment = sglang_environment(SERVE_MODE="http")
    command = [PYTHON, "-m", "handler"]
    with running_http_worker(
        command, environment, ready_within_seconds=START_SECONDS
    ) as http_worker:
        yield http_worker


def metric(worker, series):
    return value(worker.call("GET", "/metrics").text, series, missing=0)


def test_it_answers_with_the_simulated_tokens(worker):
    answer = worker.call("POST", "/v1/chat/completions", json=QUESTION).json()
    [choice] = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (ANSWER, "stop")
    assert answer["usage"]["completion_tokens"] == len(tokens(ANSWER)) + 1  # and the end


def test_a_repeated_prompt_is_cached(worker):
    """By SGLang's own radix cache, whose slots have no memory here."""
    body = {"prompt": " ".join(f"word {number}" for number in range(300)), "max_tokens": 2}
    first, second = (
        worker.call("POST", "/v1/completions", json=body).json()["usage"] for _ in range(2)
    )
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] == first["prompt_tokens"] - 1


def test_a_stream_has_the_pace_of_its_steps(worker):
    began = time.monotonic()
    answer = worker.call("POST", "/v1/completions", json=STORY | {"max_tokens": 50})
    assert time.monotonic() - began > 49 * STEP_SECONDS
    assert ends(answer.text) == ["length", "data: [DONE]"]


def test_a_client_that_leaves_ends_its_request_in_the_engine(worker):
    before = metric(worker, CANCELLED)
    headers = {"Authorization": f"Bearer {worker.api_key}"}
    url = f"{worker.base_url}/v1/completions"
    with httpx.stream("POST", url, json=STORY, headers=headers, timeout=60) as stream:
        lines = stream.iter_lines()  # which closes the stream when it goes
        next(lines)
        wait_until(lambda: metric(worker, "llm_worker_engine_running_requests") == 1, 60)
    wait_until(lambda: metric(worker, CANCELLED) == before + 1, 60)
    wait_until(lambda: metric(worker, "llm_worker_engine_running_requests") == 0, 60)


def test_sigterm_lets_a_stream_finish_and_leaves_nothing_behind(worker):
    family = psutil.Process(worker.process.pid).children(recursive=True)
    assert len(family) >= 2  # scheduler and detokenizer
    answers = []
    stream = threading.Thread(
        target=lambda: answers.append(
            worker.call("POST", "/v1/completions", json=STORY | {"max_tokens": 200}).text
        )
    )
    stream.start()
    wait_until(lambda: metric(worker, "llm_worker_streams_active") == 1, 60)
    worker.process.send_signal(signal.SIGTERM)
    stream.join(60)
    assert ends(answers[0]) == ["length", "data: [DONE]"]
    assert worker.process.wait(60) == 0
    assert running(family) == []


def ends(text: str) -> list[str]:
    """Return the finish reason of a stream, and its last line."""
    *_, last, done = text.strip().split("\n\n")
    return [json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"], done]
