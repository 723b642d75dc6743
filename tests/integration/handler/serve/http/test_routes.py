"""Routes with an id, forms and encoded bodies: the same over HTTP, in a job and in a batch line.

What real engines answer on the routes is in tests/engine.
"""

import asyncio
import base64
import gzip
import json

import openai
import pytest
from aiohttp import web

from handler.request import safe_fetch
from handler.request.safe_fetch import is_public
from tests.integration.handler.request.test_safe_fetch import server
from tests.support.conditions import wait_until
from tests.support.expositions import value
from tests.support.http_front_end import message
from tests.support.stand_in_engine import NAME, USAGE

SOUND = b"RIFF \xc3\xa9"
TEXT = SOUND.decode()


def run(http, job_input):
    """Return the output of a job, or its error."""
    answer = http.call("POST", "/runsync", json={"input": job_input}).json()
    return answer["output"] if "output" in answer else json.loads(answer["error"])["error"]


@pytest.mark.parametrize("name", [NAME, "org/name"])
def test_one_model_of_the_list(shared_http, name):
    """OpenAI's client asks for it; the engine may have no such route."""
    client = openai.OpenAI(base_url=f"{shared_http.url}/v1", api_key="one")
    assert client.models.retrieve(name).id == NAME
    for path in (f"/v1/models/{name}", f"/openai/v1/models/{name.replace('/', '%2F')}"):
        assert shared_http.call("GET", path).json() == {"id": NAME}
        assert run(shared_http, {"openai_route": path, "openai_input": None}) == [{"id": NAME}]


def test_a_model_that_is_not_served(shared_http):
    error = f"The model `gpt/4` does not exist. Models: {NAME}."
    over_http = shared_http.call("GET", "/v1/models/gpt/4")
    assert (over_http.status_code, message(over_http)) == (404, error)
    assert run(shared_http, {"openai_route": "/v1/models/gpt/4"})["message"] == error


def test_a_response_that_the_worker_has_kept(shared_http):
    """Over HTTP, where the same worker answers.

    The metrics have one series for all ids, and count tokens when they are generated only.
    """
    tokens = 'llm_worker_tokens_total{kind="completion"}'
    before = value(shared_http.call("GET", "/metrics").text, tokens)
    for name in ("resp_1", "resp_2"):
        found = shared_http.call("GET", f"/v1/responses/{name}")
        assert found.json() == {"id": name, "method": "GET", "usage": USAGE}
    ended = shared_http.call("POST", "/v1/responses/resp_1/cancel")
    assert ended.json() == {"id": "resp_1", "method": "POST", "usage": None}
    text = shared_http.call("GET", "/metrics").text
    series = 'llm_worker_requests_total{outcome="ok",route="/v1/responses/ID"}'
    assert (value(text, series), value(text, tokens)) == (2, before)
    assert "resp_1" not in text
    refused = run(shared_http, {"openai_route": "/v1/responses/resp_1"})
    assert (refused["code"], refused["param"]) == (404, "route")
    assert refused["message"].startswith("/v1/responses/resp_1 is not for callers: a response is")


def test_a_refused_route_says_why_in_a_job_and_over_http(shared_http):
    error = "/api/chat is not for callers: it uses Ollama's protocol, whose streams are not "
    over_http = shared_http.call("POST", "/api/chat", json={})
    assert (over_http.status_code, message(over_http)[: len(error)]) == (404, error)
    assert run(shared_http, {"route": "/api/chat", "body": {"a": 1}})["message"].startswith(error)


def test_a_refused_route_in_a_batch_line(shared_http):
    """A line is told which routes there are."""
    lines = [
        {"custom_id": name, "method": "POST", "url": name, "body": {"query": "a"}}
        for name in ("/flush_cache", "/v1/responses/resp_1/cancel", "/v2/rerank")
    ]
    [output] = run(shared_http, {"batch": {"requests": lines}})
    *refused, ranked = output["results"]
    assert [result["error"]["code"] for result in refused] == ["invalid_url", "invalid_url"]
    assert ranked["response"]["body"] == []


def test_an_answer_that_is_empty_is_an_answer(shared_http):
    """A rerank of nothing, or silence as text; only a health check without one is named."""
    body = {"query": "a", "documents": []}
    assert run(shared_http, {"route": "rerank", "body": body}) == [[]]
    assert shared_http.call("POST", "/v1/rerank", json=body).json() == []
    assert run(shared_http, {"route": "tokenize", "body": {"prompt": "a"}}) == [""]
    assert run(shared_http, {"route": "health"}) == [{"status": "ok"}]


FIELDS = {"model": "org/name", "timestamp_granularities": ["word", "segment"], "language": None}


def test_a_form_has_the_same_fields_from_a_job_and_over_http(shared_http):
    """OpenAI's client sends a form; its file keeps its name."""
    in_form = {"timestamp_granularities[]": ["word", "segment"], "model": [NAME]}
    job = {"file": base64.b64encode(SOUND).decode(), **FIELDS}
    file = ["upload", "application/octet-stream", TEXT]
    assert run(shared_http, {"route": "/v1/audio/transcriptions", "body": job}) == [
        in_form | {"file": [file]}
    ]
    client = openai.OpenAI(base_url=f"{shared_http.url}/v1", api_key="one")
    answer = client.audio.transcriptions.with_raw_response.create(
        model="org/name",
        file=("a.wav", SOUND, "audio/wav"),
        timestamp_granularities=["word", "segment"],
        response_format="json",
    )
    assert json.loads(answer.text) == in_form | {
        "file": [["a.wav", "audio/wav", TEXT]],
        "response_format": ["json"],
    }


def test_the_file_of_a_form_may_be_at_a_url(shared_http, monkeypatch):
    """The worker fetches it, like all media."""
    monkeypatch.setattr(
        safe_fetch, "is_public", lambda text: text == "127.0.0.1" or is_public(text)
    )

    async def sound(_):
        return web.Response(body=SOUND, content_type="audio/wav")

    async def run_with_server():
        async with server({"/b.wav": sound}) as port:
            body = {"file": f"http://127.0.0.1:{port}/b.wav?sig=x"}
            job = {"route": "audio/transcriptions", "body": body}
            return await asyncio.to_thread(run, shared_http, job)

    [answer] = asyncio.run(run_with_server())
    assert answer["file"] == [["b.wav", "audio/wav", TEXT]]


def test_a_file_at_a_private_address_is_refused(shared_http):
    body = {"file": "http://169.254.169.254/x"}
    error = run(shared_http, {"route": "audio/transcriptions", "body": body})
    assert (error["code"], error["message"]) == (
        400,
        "Media at 'http://169.254.169.254/x': 169.254.169.254 is not a public address.",
    )


PROMPT = '{"prompt": "Zoë"}'


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({}, PROMPT.encode("utf-8-sig")),
        ({}, PROMPT.encode("utf-16")),
        ({"content-type": "application/json; charset=iso-8859-1"}, PROMPT.encode("latin-1")),
        ({"content-encoding": "gzip"}, gzip.compress(PROMPT.encode())),
        ({"content-encoding": "gzip"}, gzip.compress(PROMPT.encode("utf-8-sig"))),
    ],
    ids=["byte-order mark", "UTF-16", "Latin-1", "gzip", "both"],
)
def test_a_body_is_read_as_it_is_encoded(shared_http, headers, content):
    answer = shared_http.call("POST", "/v1/completions", headers=headers, content=content)
    assert answer.json()["choices"] == [{"text": "Zoë"}]


def test_a_job_is_read_as_it_is_encoded(shared_http):
    content = gzip.compress(json.dumps({"input": {"prompt": "Zoë"}}).encode("utf-16"))
    answer = shared_http.call(
        "POST", "/runsync", headers={"content-encoding": "gzip"}, content=content
    )
    assert answer.json()["output"][0]["choices"] == [{"text": "Zoë"}]


@pytest.mark.parametrize("path", ["/v1/completions", "/run"])
def test_a_bomb_is_stopped(shared_http, path):
    """30 kB that would be 31 MB; its memory is given back."""
    content = gzip.compress(b" " * 31_000_000)
    answer = shared_http.call("POST", path, headers={"content-encoding": "gzip"}, content=content)
    assert (answer.status_code, message(answer)) == (
        413,
        "The decompressed body has more than 30000000 bytes.",
    )
    memory = shared_http.front_end._app._memory
    wait_until(lambda: memory.taken_bytes == 0)  # after the answer's last byte


def test_an_encoding_that_is_not_read(shared_http):
    """415, and a header that says what is."""
    answer = shared_http.call(
        "POST", "/v1/completions", headers={"content-encoding": "br"}, content=b"x"
    )
    assert (answer.status_code, answer.headers["accept-encoding"], message(answer)) == (
        415,
        "gzip, deflate, identity",
        "Content-Encoding must be gzip, deflate or identity, got 'br'.",
    )
    assert answer.json()["error"]["type"] == "UnsupportedMediaTypeError"
