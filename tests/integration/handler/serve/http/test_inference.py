"""Inference over HTTP: answers, errors, limits and the log.

A real engine answers in tests/engine/test_endpoint.py.
"""

import json
import re
import threading

import httpx
import openai
import pytest

from tests.support.conditions import wait_until
from tests.support.expositions import value
from tests.support.http_front_end import PROMPT, STREAM, RunningFrontEnd, connected, message, raw
from tests.support.stand_in_engine import EMBEDDINGS, ERROR, text_event


@pytest.mark.parametrize("prefix", ["", "/openai", "/v2/any/openai"])
def test_a_stream_comes_as_the_engine_writes_it(shared_http, prefix):
    """With the usage event only where the request has include_usage."""
    answer = shared_http.call("POST", f"{prefix}/v1/completions", json=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.content == text_event("one ") + text_event("two") + b"data: [DONE]\n\n"
    counted = STREAM | {"stream_options": {"include_usage": True}}
    assert '"usage"' in shared_http.call("POST", f"{prefix}/v1/completions", json=counted).text


def test_an_answer_in_bytes(shared_http):
    """Over HTTP as it is, with what says how to read it; a job refuses it."""
    answer = shared_http.call("POST", "/v1/embeddings", json={"input": "Hi"})
    content, status, headers, media_type = EMBEDDINGS
    assert (answer.content, answer.status_code) == (content, status)
    assert answer.headers["metadata"] == headers["metadata"]
    assert answer.headers["content-type"] == media_type
    job = {"input": {"route": "embeddings", "body": {"input": "Hi"}}}
    failed = json.loads(shared_http.call("POST", "/runsync", json=job).json()["error"])["error"]
    assert (failed["code"], failed["param"], failed["message"]) == (
        400,
        "encoding_format",
        "The output of a job is JSON and cannot hold bytes: "
        "set encoding_format to base64 or float.",
    )


def test_an_error_in_a_stream_is_its_last_event(shared_http):
    """What came before it stays, and what the engine sends after it means nothing."""
    answer = shared_http.call("POST", "/v1/completions", json={"prompt": "broken", "stream": True})
    before, _, last = answer.content.strip().rpartition(b"\n\n")
    assert before + b"\n\n" == text_event("one ") + text_event("two")
    error = ERROR | {"message": "device lost at [path]"}
    assert json.loads(last.removeprefix(b"data: ")) == {"error": error}


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/v1/images", 404, "There is no route '/v1/images'. Routes: chat/completions,"),
        ("GET", "/docs", 404, "/docs is not for callers: it documents routes that"),
        ("POST", "/v1/load_lora_adapter", 404, "/v1/load_lora_adapter is not for callers: it"),
        ("GET", "/v1/completions", 405, "/v1/completions accepts POST, not GET."),
        ("POST", "/v1/models", 405, "/v1/models accepts GET, not POST."),
        ("DELETE", "/status/x", 405, "/status/x accepts GET or POST, not DELETE."),
        ("GET", "/status/x", 404, "There is no job 'x', or its result has expired."),
        ("GET", "/run", 405, "/run accepts POST, not GET."),
        ("POST", "/v1/chat/completions", 400, "The body is not JSON: "),
    ],
)
def test_an_unknown_route_or_method_is_refused(shared_http, method, path, status, error):
    """Routes are allowed, not forwarded, and each error says what would be right."""
    if status == 405 and path == "/status/x":
        path = f"/status/{shared_http.call('POST', '/run', json={'input': PROMPT}).json()['id']}"
        error = f"{path} accepts GET or POST, not DELETE."
    answer = shared_http.call(method, path)
    assert (answer.status_code, message(answer)[: len(error)]) == (status, error)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/v1/messages", "/v2/x/openai/v1/messages/count_tokens"])
def test_errors_have_the_form_of_the_routes_clients(shared_http, path):
    """Anthropic's differ."""
    answer = shared_http.call("POST", path, json={"model": "another", "messages": []})
    assert (answer.status_code, answer.json()) == (
        404,
        {
            "type": "error",
            "error": {
                "type": "not_found_error",
                "message": "The model `another` does not exist. Models: stand-in.",
            },
        },
    )
    unknown = shared_http.call("POST", path, None, json={})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (401, "authentication_error")


def test_a_request_that_times_out_is_not_sent_again():
    """OpenAI's client would send it three times, and have the same computed as often."""
    with RunningFrontEnd() as http:
        http.open(request_timeout_seconds=0.2)
        client = openai.OpenAI(base_url=f"{http.url}/v1", api_key="one")
        with pytest.raises(openai.APIStatusError) as raised:
            client.completions.create(model="stand-in", prompt="wait")
        assert raised.value.status_code == 408
        ended = 'llm_worker_requests_total{outcome="timeout",route="/v1/completions"}'
        assert value(http.call("GET", "/metrics").text, ended) == 1


def test_requests_over_the_limit_wait_and_those_over_the_queue_are_refused(http):
    """Two slots, a queue of one, then 429 with Retry-After."""
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(http.complete("wait").status_code))
        for _ in range(3)
    ]
    for number, thread in enumerate(threads, 1):
        thread.start()
        admission = http.admission
        wait_until(
            lambda number=number, admission=admission: (
                admission.running + admission.waiting == number
            )
        )
    wait_until(lambda: http.engine.running_requests == 2)
    refused = [
        http.complete(),
        http.call("POST", "/run", json={"input": PROMPT}),
    ]
    assert [(each.status_code, each.headers["retry-after"]) for each in refused] == [(429, "1")] * 2
    text = http.call("GET", "/metrics").text
    assert value(text, 'llm_worker_requests_total{outcome="rejected",route="/v1/completions"}') == 1
    assert value(text, 'llm_worker_requests_total{outcome="rejected",route="?"}') == 1
    assert message(refused[0]) == "The queue is full (2 running, 1 waiting): try again soon."
    assert http.call("GET", "/v1/models").status_code == 200  # it is no work
    http.engine.may_answer.set()
    for thread in threads:
        thread.join()
    assert answers == [200] * 3
    assert (admission.running, admission.waiting) == (0, 0)


def test_a_body_that_is_too_large_is_refused_before_it_is_there(http):
    """413 from its Content-Length, and without one from what arrives."""
    with connected(http) as client:
        client.sendall(raw("POST", "/v1/completions", length=30_000_001))
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    def pieces():
        for _ in range(31):
            yield b"x" * 1_000_000

    try:
        answer = http.call("POST", "/v1/completions", content=pieces())
    except httpx.WriteError:  # the connection is closed while the rest is on its way
        return
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, 413)


def test_a_body_that_does_not_come_is_not_waited_for(http, monkeypatch):
    """408, and the connection is closed."""
    monkeypatch.setattr("handler.serve.http.body.BODY_TIMEOUT_SECONDS", 0.1)
    with connected(http) as client:
        client.sendall(raw("POST", "/v1/completions", b"{", length=10))
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer
        while client.recv(1000):
            pass  # what else there is of the answer, and then the end


def test_large_bodies_share_one_memory(http, monkeypatch):
    """A body that does not fit gets 429; one that is answered makes room."""
    monkeypatch.setattr("handler.serve.http.body.MAX_BODIES_BYTES", 1_000)
    answer = http.complete("x" * 2_000)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert message(answer) == "The worker has too many large requests: try again soon."
    assert [http.complete("x" * 600).status_code for _ in range(3)] == [200, 200, 200]


def requests_in(caplog):
    return [record for record in caplog.records if hasattr(record, "fields")]


def test_the_log_has_a_line_for_each_request_and_no_text_of_it(http, caplog):
    """Tokens, times and outcome; its answers only with LOG_CONTENT."""
    caplog.set_level("INFO", "handler")
    http.complete("a secret")
    http.call("POST", "/v1/completions", json={"prompt": "broken", "stream": True})
    http.call("GET", "/v1/nothing")
    wait_until(lambda: len(requests_in(caplog)) == 3)
    plain, broken, nothing = requests_in(caplog)
    assert plain.getMessage().startswith("/v1/completions 200 ok, 7 tokens in (5 cached), 2 out, ")
    assert broken.getMessage().startswith("/v1/completions 500 failed, ")
    assert re.search(r", first token \d+\.\d", broken.getMessage())
    assert re.match(r"unknown route 404 refused, \d+\.\d", nothing.getMessage())
    assert plain.fields.keys() == {
        *("route", "outcome", "status", "promptTokens", "completionTokens", "cachedTokens"),
        *("firstTokenSeconds", "seconds", "dollars"),
    }
    assert nothing.fields.keys() == plain.fields.keys() - {"dollars"}
    assert "secret" not in caplog.text


def test_the_log_has_texts_with_log_content(caplog):
    """Of prompts and completions."""
    caplog.set_level("INFO", "handler")
    with RunningFrontEnd(LOG_CONTENT="1") as http:
        http.open().complete("a secret")
    [line] = requests_in(caplog)
    assert json.loads(line.fields["asked"])["prompt"] == "a secret"
    assert json.loads(line.fields["answered"])["choices"] == [{"text": "a secret"}]
