"""The HTTP door's limits and ends, with a real server and an engine that does what is wanted.

The adapter is a stand-in: an app that answers, streams for ever, hangs or dies when a test says so.
The real engine stands behind the same door in test_endpoint.py and test_http_worker.py.
"""

import asyncio
import json
import socket
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from handler.engine.interface import Capacity, RunningEngine
from handler.engine.runtime import EngineRuntime
from handler.environ import load
from handler.errors import EngineDied, InvalidSetting, Unauthorized
from handler.metrics.monitor import Monitor
from handler.request.parse import RequestParser
from handler.serve.batch import run
from handler.serve.http import body, jobs, uvicorn_patches
from handler.serve.http.auth import ApiKeys
from handler.serve.http.lifecycle import HttpFrontEnd
from handler.serve.http.metrics_server import MetricsServer
from handler.serve.worker import Worker
from handler.startup.timings import StartupTimings
from tests.support.http_worker import free_port

CAPACITY = Capacity(max_sequences=8, kv_cache_tokens=4096, max_model_tokens=2048)
PROMPT = {"prompt": "Hi"}
STREAM = PROMPT | {"stream": True}


VECTORS = (b"\0\xff", 200, {"metadata": "{}"}, "application/octet-stream")


def chunk(text, **more):
    return b"data: " + json.dumps({"choices": [{"text": text}], **more}).encode() + b"\n\n"


class StandIn:
    """An adapter without an engine: a prompt's text says what its answer is."""

    name = served_model_name = "stand-in"
    forks = False

    def __init__(self):
        self.running_requests = 0
        self.living = True
        self.may_answer = threading.Event()

    def prepare(self):
        pass

    def check(self):
        pass

    @asynccontextmanager
    async def running(self, pacer):
        routes = [
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/embeddings", lambda _: Response(*VECTORS), methods=["POST"]),
            Route("/v1/models", lambda _: JSONResponse({"data": []})),
            Route("/metrics", lambda _: Response("vllm:num_requests_running 3.0\n")),
        ]
        yield RunningEngine(Starlette(routes=routes), CAPACITY, lambda: self.living, ("stand-in",))

    async def complete(self, request):
        body = await request.json()
        if body.get("stream"):
            return StreamingResponse(self.stream(body["prompt"]), media_type="text/event-stream")
        with self.counted():
            while body["prompt"] == "wait" and not self.may_answer.is_set():
                await asyncio.sleep(0.01)
        return JSONResponse({"choices": [{"text": body["prompt"]}], "usage": USAGE})

    async def stream(self, prompt):
        with self.counted():
            yield chunk("one ")
            while prompt in ("endless", "flood"):
                yield chunk("x" if prompt == "endless" else "x" * 100_000)
                await asyncio.sleep(0.005)
            if prompt == "broken":
                yield b'data: {"error": {"message": "lost", "type": "E", "code": 500}}\n\n'
            yield chunk("two")
            yield b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n"
            yield b"data: [DONE]\n\n"

    @contextmanager
    def counted(self):
        self.running_requests += 1
        try:
            yield
        finally:
            self.running_requests -= 1


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}


class Door:
    """A door that serves a stand-in from a thread of its own, and what to call it by."""

    def __init__(self, concurrency=2, **environ):
        environ = {"PORT": str(free_port()), "API_KEY": "one,two", "MAX_QUEUE": "1"} | environ
        self.settings = load({name: value for name, value in environ.items() if value})
        self.url = f"http://127.0.0.1:{self.settings.http_port}"
        self.adapter = StandIn()
        self.concurrency = concurrency
        self.failure = None

    def __enter__(self):
        self._host = EngineRuntime(self.adapter)
        self.door = HttpFrontEnd(self.settings).__enter__()
        return self

    def open(self, timeout_seconds=None):
        """Have the engine come up, and serve."""
        self._host.__enter__()
        self._host.wait_until_up()
        self.monitor = Monitor(self._host, StartupTimings(time.time()), 2).__enter__()
        reader = RequestParser(("stand-in",), "org/name", {})
        worker = Worker(
            self._host,
            reader,
            max_jobs=self.concurrency,
            front_end=self.door,
            request_timeout_seconds=timeout_seconds,
            monitor=self.monitor,
            log_content=self.settings.log_content,
        )
        self._thread = threading.Thread(target=self._serve, args=(worker,))
        self._thread.start()
        wait_until(lambda: self.ping() == 200)
        return self

    def _serve(self, worker):
        try:
            self.door.serve(worker, self.concurrency, self.monitor)
        except EngineDied as error:
            self.failure = error

    def terminate(self):
        """Do what SIGTERM does, whose handler only the main thread can install."""
        self.door._signalled(15, None)

    def __exit__(self, *_):
        if hasattr(self, "monitor"):
            if self._thread.is_alive():
                self.terminate()
            self._thread.join(10)
            self.monitor.__exit__()
            self._host.stop()
        self.door.__exit__()

    def ping(self):
        return httpx.get(f"{self.url}/ping").status_code

    def call(self, method, path, key="one", **more):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.request(
            method, self.url + path, headers=headers | more.pop("headers", {}), timeout=10, **more
        )

    def complete(self, prompt="Hi", **more):
        return self.call("POST", "/v1/completions", json={"prompt": prompt, **more})


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_handlers(monkeypatch):
    """The door serves on the main thread in a worker, and here it does not."""
    monkeypatch.setattr("handler.serve.http.lifecycle.signal.signal", lambda *_: None)


@pytest.fixture
def door():
    with Door() as made:
        yield made.open()


def message(answer):
    return answer.json()["error"]["message"]


def test_a_ping_says_where_the_worker_is():
    """204 while it starts, 200 when it is ready, 503 while it drains; it needs no key."""
    with Door() as door:
        assert door.ping() == 204
        starting = door.call("GET", "/v1/models")
        assert (starting.status_code, message(starting)) == (503, "The engine is starting.")
        assert starting.headers["retry-after"] == "5"
        door.open()
        assert door.ping() == 200
        waiting = threading.Thread(target=door.complete, args=("wait",))
        waiting.start()
        wait_until(lambda: door.adapter.running_requests == 1)
        door.terminate()
        wait_until(lambda: door.ping() == 503)
        draining = door.complete()
        assert (draining.status_code, message(draining)) == (503, "The worker is being stopped.")
        door.adapter.may_answer.set()
        waiting.join()
        door._thread.join(5)
        assert not door._thread.is_alive()


def test_a_health_port_of_its_own_answers_a_ping_and_nothing_else():
    """What a platform's health check reaches, nobody else may use."""
    health = free_port()
    with Door(PORT_HEALTH=str(health)) as door:
        door.open()
        assert httpx.get(f"http://127.0.0.1:{health}/ping").status_code == 200
        headers = {"Authorization": "Bearer one"}
        other = httpx.get(f"http://127.0.0.1:{health}/v1/models", headers=headers)
        assert other.status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer three"}, 401),
        ({"Authorization": "Bearer one,two"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer one"}, 200),
        ({"Authorization": "bearer two"}, 200),
        ({"Authorization": "two"}, 200),
        ({"x-api-key": "two"}, 200),
        ({"Authorization": "Bearer of-the-gateway", "x-api-key": "two"}, 200),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/health"])
def test_one_of_the_keys_is_needed(door, headers, status, path):
    """As OpenAI's clients send it, or Anthropic's."""
    answer = door.call("GET", path, key=None, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert "server" not in answer.headers


def test_without_a_key_the_start_is_refused():
    """Unless nobody can reach it, the platform's gateway is in front, or it is meant."""
    with pytest.raises(
        InvalidSetting, match="API_KEY is not set, and anybody who reaches this port"
    ):
        HttpFrontEnd(load({"PORT": "1"}))
    for meant in (
        {"HTTP_HOST": "127.0.0.1"},
        {"ALLOW_UNAUTHENTICATED": "1"},
        {"RUNPOD_ENDPOINT_ID": "e"},
    ):
        with Door(API_KEY="", **meant) as door:
            assert door.open().call("GET", "/v1/models", key=None).status_code == 200


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        *(("localhost", True), ("LOCALHOST:80", True), ("127.0.0.1:8000", True)),
        *(("[::1]", True), ("[::1]:8000", True), ("", False)),
        *(("a.example", False), ("127.0.0.1.a.example", False), ("[::1", False)),
    ],
)
def test_who_is_called_as_this_machine(host, passes):
    """With a port or without."""
    keys = ApiKeys([])
    if passes:
        keys.check(Headers({"host": host}))
    else:
        with pytest.raises(Unauthorized):
            keys.check(Headers({"host": host}))


@pytest.mark.parametrize("origin", ["https://a.example", "null", "http://127.0.0.1:1"])
def test_without_a_key_no_page_of_elsewhere_may_use_the_model(origin):
    """A browser sends a plain text without asking first; the worker's own page may."""
    with Door(API_KEY="", HTTP_HOST="127.0.0.1") as door:
        door.open()
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        body = json.dumps(PROMPT)
        asked = ("POST", "/v1/completions", None)
        assert door.call(*asked, headers=headers, content=body).status_code == 401
        moved = {"Host": "a.example", "Origin": "http://a.example"}
        answer = door.call(*asked, headers=moved, json=PROMPT)
        assert (answer.status_code, message(answer)) == (
            *(401, "Call this worker as localhost or 127.0.0.1."),
        )
        own = headers | {"Origin": door.url}
        assert door.call(*asked, headers=own, content=body).status_code == 200


def test_a_page_that_is_named_may_use_the_model_and_no_other():
    """Nor one whose name has been made to lead here; `*` is any."""
    named = {"Origin": "https://a.example"}
    others = ({"Origin": "https://c.example"}, {"Host": "c.example:8000"})
    for cors_origins, codes in (("https://a.example", [200, 401, 401]), ("*", [200, 200, 200])):
        with Door(API_KEY="", HTTP_HOST="127.0.0.1", CORS_ORIGINS=cors_origins) as door:
            door.open()
            answers = [
                door.call("POST", "/v1/completions", None, headers=headers, json=PROMPT)
                for headers in (named, *others)
            ]
            assert [each.status_code for each in answers] == codes


def test_a_request_that_times_out_is_not_asked_again():
    """OpenAI's client would ask three times, and have the same computed as often."""
    with Door() as door:
        door.open(timeout_seconds=0.2)
        client = openai.OpenAI(base_url=f"{door.url}/v1", api_key="one")
        with pytest.raises(openai.APIStatusError) as raised:
            client.completions.create(model="stand-in", prompt="wait")
        assert raised.value.status_code == 408
        ended = 'llm_worker_requests_total{outcome="timeout",route="/v1/completions"}'
        assert value(door.call("GET", "/metrics").text, ended) == 1


@pytest.mark.parametrize("path", ["/v1/messages", "/v2/x/openai/v1/messages/count_tokens"])
def test_errors_have_the_form_of_the_routes_clients(door, path):
    """Anthropic's differ."""
    answer = door.call("POST", path, json={"model": "another", "messages": []})
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
    unknown = door.call("POST", path, None, json={})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (401, "authentication_error")


def test_a_port_that_is_taken_is_refused():
    """With its name."""
    with Door() as door, pytest.raises(InvalidSetting) as raised:
        HttpFrontEnd(door.settings)
    assert str(raised.value) == (
        f"PORT={door.settings.http_port} on 0.0.0.0 is not available: Address already in use."
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/docs", 404, "There is no route '/docs'. Routes: chat/completions,"),
        ("POST", "/v1/load_lora_adapter", 404, "There is no route '/v1/load_lora_adapter'."),
        ("GET", "/v1/completions", 405, "/v1/completions takes POST, not GET."),
        ("POST", "/v1/models", 405, "/v1/models takes GET, not POST."),
        ("DELETE", "/status/x", 405, "/status/x takes GET or POST, not DELETE."),
        ("GET", "/status/x", 404, "There is no job 'x', or its result is no longer kept."),
        ("GET", "/run", 405, "/run takes POST, not GET."),
        ("POST", "/v1/chat/completions", 400, "The body is not JSON: "),
    ],
)
def test_what_is_no_route(door, method, path, status, said):
    """Routes are allowed, not forwarded, and each error says what would be right."""
    if status == 405 and path == "/status/x":
        path = f"/status/{door.call('POST', '/run', json={'input': PROMPT}).json()['id']}"
        said = f"{path} takes GET or POST, not DELETE."
    answer = door.call(method, path)
    assert (answer.status_code, message(answer)[: len(said)]) == (status, said)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("prefix", ["", "/openai", "/v2/any/openai"])
def test_a_stream_comes_as_the_engine_writes_it(door, prefix):
    """Without the count that was not asked for, and with it where it was."""
    answer = door.call("POST", f"{prefix}/v1/completions", json=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.content == chunk("one ") + chunk("two") + b"data: [DONE]\n\n"
    counted = STREAM | {"stream_options": {"include_usage": True}}
    assert '"usage"' in door.call("POST", f"{prefix}/v1/completions", json=counted).text


def test_an_error_in_a_stream_is_its_last_event(door):
    """What came before it stays, and what the engine sends after it means nothing."""
    answer = door.call("POST", "/v1/completions", json={"prompt": "broken", "stream": True})
    first, last = answer.content.strip().split(b"\n\n")
    assert first + b"\n\n" == chunk("one ")
    error = {"message": "lost", "type": "E", "param": None, "code": 500}
    assert json.loads(last.removeprefix(b"data: ")) == {"error": error}


def test_the_log_has_a_line_for_each_request_and_no_text_of_it(door, caplog):
    """Tokens, times and outcome; its answers only with LOG_CONTENT."""
    caplog.set_level("INFO", "handler")
    door.complete("a secret")
    door.call("POST", "/v1/completions", json={"prompt": "broken", "stream": True})
    door.call("GET", "/v1/nothing")
    wait_until(lambda: len(requests_in(caplog)) == 3)
    plain, broken, nothing = requests_in(caplog)
    assert plain.getMessage().startswith("/v1/completions 200 ok, 7 tokens in (5 cached), 2 out, ")
    assert broken.getMessage().startswith("/v1/completions 500 failed, ")
    assert ", first token 0." in broken.getMessage()
    assert nothing.getMessage().startswith("? 404 refused, 0 tokens in")
    assert plain.fields.keys() == {
        *("route", "outcome", "status", "promptTokens", "completionTokens", "cachedTokens"),
        *("firstTokenSeconds", "seconds"),
    }
    assert "secret" not in caplog.text


def requests_in(caplog):
    return [record for record in caplog.records if hasattr(record, "fields")]


def test_the_log_has_texts_where_that_is_wanted(caplog):
    """LOG_CONTENT=1."""
    caplog.set_level("INFO", "handler")
    with Door(LOG_CONTENT="1") as door:
        door.open().complete("a secret")
    [line] = requests_in(caplog)
    assert json.loads(line.fields["asked"])["prompt"] == "a secret"
    assert json.loads(line.fields["answered"])["choices"] == [{"text": "a secret"}]


def test_the_playground_can_be_turned_off(door):
    """It is a page that needs no key and loads nothing from anywhere."""
    page = httpx.get(f"{door.url}/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "http" not in page.text
    with Door(PLAYGROUND="0") as without:
        assert without.open().call("GET", "/").status_code == 404


def test_what_has_no_place_waits_and_what_may_not_wait_is_turned_away(door):
    """Two places, a queue of one, then 429 with a hint when to come back."""
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(door.complete("wait").status_code))
        for _ in range(3)
    ]
    for number, thread in enumerate(threads, 1):
        thread.start()
        slots = door.door._app.service.admission
        wait_until(lambda number=number, slots=slots: slots.running + slots.waiting == number)
    assert door.adapter.running_requests == 2
    refused = [
        door.complete(),
        door.call("POST", "/run", json={"input": PROMPT}),
    ]
    assert [(each.status_code, each.headers["retry-after"]) for each in refused] == [(429, "1")] * 2
    text = door.call("GET", "/metrics").text
    assert value(text, 'llm_worker_requests_total{outcome="rejected",route="/v1/completions"}') == 1
    assert value(text, 'llm_worker_requests_total{outcome="rejected",route="?"}') == 1
    assert message(refused[0]) == "2 requests are being answered and 1 wait: try again soon."
    assert door.call("GET", "/v1/models").status_code == 200  # it is no work
    door.adapter.may_answer.set()
    for thread in threads:
        thread.join()
    assert answers == [200] * 3
    assert (slots.running, slots.waiting) == (0, 0)


def connected(door):
    opened = socket.create_connection(("127.0.0.1", door.settings.http_port))
    opened.settimeout(5)
    return opened


def raw(method, path, body=b"", length=None):
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\n"
    return (
        f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body
    )


def test_a_client_that_leaves_aborts_its_request(door):
    """While it is answered, and while it waits."""
    slots = door.door._app.service.admission
    bodies = [b'{"prompt": "endless", "stream": true}'] * 2 + [b'{"prompt": "wait"}']
    clients = []
    for number, payload in enumerate(bodies, 1):
        clients.append(connected(door))
        clients[-1].sendall(raw("POST", "/v1/completions", payload))
        wait_until(lambda number=number: slots.running + slots.waiting == number)
    clients.pop().close()
    wait_until(lambda: slots.waiting == 0)
    assert slots.running == 2
    for client in clients:
        client.close()
    wait_until(lambda: door.adapter.running_requests == 0 and slots.running == 0)


def test_a_reader_who_stops_reading_loses_its_place(door, monkeypatch):
    """Its stream fills the connection, and no more is kept for it."""
    monkeypatch.setattr(uvicorn_patches, "STALL_TIMEOUT_SECONDS", 0.2)
    with connected(door) as client:
        client.sendall(raw("POST", "/v1/completions", b'{"prompt": "flood", "stream": true}'))
        wait_until(lambda: door.adapter.running_requests == 1)
        wait_until(lambda: door.adapter.running_requests == 0, 20)
    assert door.door._app.service.admission.running == 0


def test_a_client_that_sends_ahead_and_leaves_aborts_what_runs(door):
    """Two requests on one connection: the first is not forgotten for the second."""
    body = b'{"prompt": "endless", "stream": true}'
    with connected(door) as client:
        client.sendall(raw("POST", "/v1/completions", body) + raw("GET", "/ping"))
        wait_until(lambda: door.adapter.running_requests == 1)
    wait_until(lambda: door.adapter.running_requests == 0)


def test_an_error_before_the_body_closes_the_connection(door):
    """What is left of the body would be taken for the next request."""
    with connected(door) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        answer = b""
        while piece := client.recv(1000):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_body_that_is_too_large_is_refused_before_it_is_there(door):
    """413 from its length, and from what arrives where none is said."""
    with connected(door) as client:
        client.sendall(raw("POST", "/v1/completions", length=30_000_001))
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    def pieces():
        for _ in range(31):
            yield b"x" * 1_000_000

    try:
        answer = door.call("POST", "/v1/completions", content=pieces())
    except httpx.WriteError:  # the connection is closed while the rest is on its way
        return
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, 413)


def test_a_body_that_does_not_come_is_not_waited_for(door, monkeypatch):
    """408, and the connection is closed."""
    monkeypatch.setattr(body, "BODY_TIMEOUT_SECONDS", 0.1)
    with connected(door) as client:
        client.sendall(raw("POST", "/v1/completions", b"{", length=10))
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer
        while client.recv(1000):
            pass  # what else there is of the answer, and then the end


@pytest.mark.parametrize(
    "sent", [b"", b"GET /ping HTTP/1.1\r\nX: "], ids=["nothing", "half a head"]
)
def test_a_head_that_does_not_come_is_not_waited_for(sent, monkeypatch):
    """The connection is closed without a word."""
    monkeypatch.setattr(uvicorn_patches, "HEAD_TIMEOUT_SECONDS", 0.2)
    with Door() as door, connected(door) as client:
        client.sendall(sent)
        assert client.recv(1000) == b""


def test_a_head_that_is_too_long_is_not_read(door):
    """64 kB are enough for anybody."""
    with connected(door) as client:
        try:
            client.sendall(b"GET /ping HTTP/1.1\r\nX: " + b"x" * 70_000)
            answer = client.recv(1000)
        except ConnectionError:  # it was closed while the rest was on its way
            answer = b""
    assert answer == b""
    assert door.ping() == 200


def test_a_heads_end_that_comes_in_two_parts_ends_it(door):
    """With a large body right behind."""
    body = json.dumps({"prompt": "x" * 200_000}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\n"
    with connected(door) as client:
        client.sendall(head + b"Content-Length: %d\r\n\r" % len(body))
        time.sleep(0.1)
        client.sendall(b"\n" + body)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_connection_too_many_is_closed(door, monkeypatch):
    """The others stay."""
    monkeypatch.setattr(uvicorn_patches, "MAX_CONNECTIONS", 1)
    with connected(door) as first:
        wait_until(lambda: len(door.door._server._server.server_state.connections) == 1)
        with connected(door) as second, suppress(ConnectionResetError):
            assert second.recv(1000) == b""
        first.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.recv(1000).startswith(b"HTTP/1.1 200")


def test_large_bodies_share_one_memory(door, monkeypatch):
    """What has no room is told to come again, and what is over makes some."""
    monkeypatch.setattr(body, "MAX_BODIES_BYTES", 1_000)
    answer = door.complete("x" * 2_000)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert message(answer) == "Too many large requests are being answered: try again soon."
    assert [door.complete("x" * 600).status_code for _ in range(3)] == [200, 200, 200]


def test_the_oldest_results_make_room(door, monkeypatch):
    """Where all of them together are too large."""
    monkeypatch.setattr(jobs, "MAX_KEPT_BYTES", 300)
    names = [door.call("POST", "/runsync", json={"input": PROMPT}).json()["id"] for _ in "abc"]
    statuses = [door.call("GET", f"/status/{name}").status_code for name in names]
    assert statuses == [404, 200, 200]


def test_several_requests_on_one_connection(door):
    """One after the other, and sent all at once."""
    with connected(door) as client:
        client.sendall(raw("GET", "/ping") * 3)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 3:
            answers += client.recv(1000)
        time.sleep(0.1)
        client.sendall(raw("GET", "/ping"))
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_no_other_page_may_call_it_unless_it_is_named(door):
    """CORS is off by default."""
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    off = door.call("OPTIONS", "/v1/completions", headers=asked)
    assert (off.status_code, "access-control-allow-origin" in off.headers) == (405, False)
    with Door(CORS_ORIGINS="https://a.example, https://b.example") as open_door:
        answers = [
            open_door.call("OPTIONS", "/v1/completions", headers=asked | {"Origin": origin})
            for origin in ("https://a.example", "https://c.example")
        ]
    assert [each.headers.get("access-control-allow-origin") for each in answers] == [
        "https://a.example",
        None,
    ]


def test_a_dead_engine_fails_what_runs_and_ends_the_door(door):
    """Each request gets an answer, and the ping says so before it is gone."""
    stream = []

    def read():
        body = {"prompt": "endless", "stream": True}
        stream.append(door.call("POST", "/v1/completions", json=body).text)

    threads = [threading.Thread(target=read)]
    threads.append(threading.Thread(target=lambda: stream.append(door.complete("wait"))))
    for thread in threads:
        thread.start()
    wait_until(lambda: door.adapter.running_requests == 2)
    door.adapter.living = False
    for thread in threads:
        thread.join(10)
    door._thread.join(10)
    assert str(door.failure) == "The engine died. The platform has to replace this worker."
    plain = next(each for each in stream if not isinstance(each, str))
    streamed = next(each for each in stream if isinstance(each, str))
    assert (plain.status_code, plain.json()["error"]["type"]) == (503, "ServiceUnavailableError")
    assert '"code": 503' in streamed.strip().rpartition("\n\n")[2]


# ---- /run and what belongs to it


def finished(door, name):
    while True:
        status = door.call("GET", f"/status/{name}").json()
        if status["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
            return status
        time.sleep(0.01)


def test_a_job_is_run_and_its_result_is_asked_for(door):
    """As on a queue endpoint, from its id to its times."""
    submitted = door.call("POST", "/v2/any/run", json={"input": PROMPT}).json()
    assert submitted == {"id": submitted["id"], "status": "IN_QUEUE"}
    status = finished(door, submitted["id"])
    assert status["output"] == [{"choices": [{"text": "Hi"}], "usage": USAGE}]
    assert (status["status"], type(status["delayTime"]), type(status["executionTime"])) == (
        *("COMPLETED", int, int),
    )
    jobs = door.call("GET", "/health").json()["jobs"]
    assert jobs == {"inQueue": 0, "inProgress": 0, "completed": 1, "failed": 0, "retried": 0}


def test_a_jobs_stream_is_read_in_pieces(door):
    """Each call brings what is new; together it is all."""
    name = door.call("POST", "/run", json={"input": STREAM}).json()["id"]
    pieces, state = [], ""
    while state != "COMPLETED":
        answer = door.call("GET", f"/stream/{name}").json()
        pieces += [piece["output"] for piece in answer["stream"]]
        state = answer["status"]
    text = "".join(choice["text"] for piece in pieces for choice in piece["choices"])
    assert text == "one two"
    assert door.call("GET", f"/stream/{name}").json() == {"status": "COMPLETED", "stream": []}


def test_runsync_waits_and_no_longer_than_is_said(door):
    """What is not over in time is asked for later."""
    done = door.call("POST", "/runsync", json={"input": {"route": "completions", "body": PROMPT}})
    assert done.json()["output"] == [{"choices": [{"text": "Hi"}], "usage": USAGE}]
    body = {"input": {"prompt": "wait"}}
    early = door.call("POST", "/runsync?wait=50", json=body).json()
    assert early["status"] == "IN_PROGRESS"
    door.adapter.may_answer.set()
    assert finished(door, early["id"])["status"] == "COMPLETED"


def test_a_job_that_fails_says_why(door):
    """Its error is the text that a queue's job has."""
    failed = door.call("POST", "/runsync", json={"input": {"nothing": 1}}).json()
    assert failed["status"] == "FAILED"
    assert json.loads(failed["error"])["error"]["code"] == 400


def test_a_job_is_cancelled_and_a_job_times_out(door):
    """Both are gone from the engine."""
    body = {"input": {"prompt": "endless", "stream": True}}
    name = door.call("POST", "/run", json=body).json()["id"]
    wait_until(lambda: door.adapter.running_requests == 1)
    assert door.call("POST", f"/cancel/{name}").json() == {"id": name, "status": "CANCELLED"}
    wait_until(lambda: door.adapter.running_requests == 0)
    assert door.call("GET", f"/status/{name}").json()["status"] == "CANCELLED"
    timed = door.call("POST", "/runsync", json=body | {"policy": {"executionTimeout": 100}}).json()
    assert (timed["status"], timed["error"]) == (*("TIMED_OUT", timed["error"]),)
    said = json.loads(timed["error"])["error"]
    assert (said["code"], said["message"]) == (
        *(408, "The request took longer than policy.executionTimeout=0.1 seconds."),
    )
    text = door.call("GET", "/metrics").text
    ended = 'llm_worker_requests_total{outcome="%s",route="/v1/completions"}'
    assert [value(text, ended % outcome) for outcome in ("cancelled", "timeout")] == [1, 1]
    wait_until(lambda: door.adapter.running_requests == 0)
    assert door.door._app.service.admission.running == 0


def batch_of(*prompts, **more):
    return {
        "requests": [
            {"custom_id": p, "method": "POST", "url": "/v1/completions", "body": {"prompt": p}}
            for p in prompts
        ],
        **more,
    }


def test_a_batch_is_one_job_whose_lines_are_requests(door, monkeypatch):
    """Its progress stands where its output will be."""
    monkeypatch.setattr(run, "PROGRESS_INTERVAL_SECONDS", 0.02)
    order = {"input": {"batch": batch_of("a", "b", "c", "wait", concurrency=2)}}
    name = door.call("POST", "/run", json=order).json()["id"]
    done = {"total": 4, "completed": 3, "failed": 0}
    wait_until(lambda: door.call("GET", f"/status/{name}").json().get("output") == done, 10)
    assert door.door._app.service.admission.running == 1
    assert door.complete().status_code == 200
    door.adapter.may_answer.set()
    status = finished(door, name)
    [output] = status["output"]
    assert output["batch"] == done | {"completed": 4}
    assert [each["custom_id"] for each in output["results"]] == ["a", "b", "c", "wait"]
    metrics = door.call("GET", "/metrics").text
    ended = 'llm_worker_requests_total{outcome="ok",route="%s"}'
    assert value(metrics, ended % "/v1/completions") == 5
    assert value(metrics, ended % "batch") == 1


def test_no_more_batches_than_some_and_a_job_keeps_its_room(door, monkeypatch):
    """Each may be large: its body counts until it is over."""
    monkeypatch.setattr(jobs, "MAX_BATCHES", 1)
    order = {"input": {"batch": batch_of("wait", concurrency=1)}}
    name = door.call("POST", "/run", json=order).json()["id"]
    refused = door.call("POST", "/run", json=order)
    assert (refused.status_code, message(refused)) == (
        *(429, "The limit of 1 batches at once is reached: try again later."),
    )
    room = door.door._app._memory
    assert room.taken_bytes == len(json.dumps(order, separators=(",", ":")))
    assert door.complete().status_code == 200
    door.adapter.may_answer.set()
    finished(door, name)
    wait_until(lambda: room.taken_bytes == 0)
    assert door.call("POST", "/runsync", json=order).json()["status"] == "COMPLETED"


def test_the_lines_of_a_batch_take_places_like_requests():
    """With one place, one is asked at a time, and a drain waits for all of them."""
    with Door(concurrency=1) as door:
        door.open()
        order = {"input": {"batch": batch_of("wait", "b", "c", concurrency=3)}}
        name = door.call("POST", "/run", json=order).json()["id"]
        slots = door.door._app.service.admission
        wait_until(lambda: door.adapter.running_requests == 1)
        assert (slots.running, slots.waiting) == (1, 0)
        door.terminate()
        wait_until(lambda: door.ping() == 503)
        door.adapter.may_answer.set()
        [output] = finished(door, name)["output"]
        assert output["batch"] == {"total": 3, "completed": 3, "failed": 0}
        assert (slots.running, door.adapter.running_requests) == (0, 0)


def test_a_batch_is_cancelled_or_times_out_with_all_its_lines(door):
    """executionTimeout is for the whole of it."""
    order = {"input": {"batch": batch_of("a", "wait", "b", concurrency=2)}}
    name = door.call("POST", "/run", json=order).json()["id"]
    wait_until(lambda: door.adapter.running_requests == 1)
    assert door.call("POST", f"/cancel/{name}").json()["status"] == "CANCELLED"
    wait_until(lambda: door.adapter.running_requests == 0)
    timed = door.call("POST", "/runsync", json=order | {"policy": {"executionTimeout": 200}}).json()
    assert timed["status"] == "TIMED_OUT"
    wait_until(lambda: door.adapter.running_requests == 0)
    assert door.door._app.service.admission.running == 0


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ([], 'The body must be an object with an "input".'),
        ({}, 'The body must be an object with an "input".'),
        ({"input": {}, "webhook": "http://x"}, "webhook is not supported here: ask /status or"),
        ({"input": {}, "policy": []}, None),
        ({"input": {}, "policy": "x"}, "policy must be an object."),
        (
            {"input": {}, "policy": {"executionTimeout": "1"}},
            "policy.executionTimeout must be a positive number of milliseconds, got '1'.",
        ),
    ],
)
def test_an_order_that_means_nothing(door, order, said):
    """400, and what would be right."""
    answer = door.call("POST", "/run", json=order)
    if said is None:  # as good as none
        assert answer.status_code == 200
    else:
        assert (answer.status_code, message(answer)[: len(said)]) == (400, said)


def test_an_answer_in_bytes(door):
    """Over HTTP as it is, with what says how to read it; a job refuses it."""
    answer = door.call("POST", "/v1/embeddings", json={"input": "Hi"})
    content, status, headers, media_type = VECTORS
    assert (answer.content, answer.status_code) == (content, status)
    assert answer.headers["metadata"] == headers["metadata"]
    assert answer.headers["content-type"] == media_type
    order = {"input": {"route": "embeddings", "body": {"input": "Hi"}}}
    failed = json.loads(door.call("POST", "/runsync", json=order).json()["error"])["error"]
    assert (failed["code"], failed["param"], failed["message"]) == (
        *(400, "encoding_format"),
        "The output of a job is JSON and cannot hold bytes: set encoding_format to base64 or "
        "float.",
    )


# ---- the metrics


def value(text, name):
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[-1])


def test_the_exposition_has_the_engines_metrics_and_the_workers(door):
    """One text, and nothing of the user's in a label."""
    door.complete()
    door.call("POST", "/v1/completions", json=STREAM)
    door.call("POST", "/v1/secret-path", json=STREAM)
    text = door.call("GET", "/metrics").text
    assert value(text, "vllm:num_requests_running") == 3
    ok = 'llm_worker_requests_total{outcome="ok",route="/v1/completions"}'
    assert value(text, ok) == 2
    assert value(text, 'llm_worker_requests_total{outcome="refused",route="?"}') == 1
    assert value(text, 'llm_worker_tokens_total{kind="cached"}') == 10
    assert value(text, "llm_worker_time_to_first_token_seconds_count") == 1
    assert value(text, "llm_worker_inter_token_seconds_count") == 1
    assert value(text, "llm_worker_engine_up") == 1
    assert value(text, "llm_worker_engine_running_requests") == 3
    assert value(text, 'llm_worker_bottleneck{kind="queue"}') == 1
    assert "secret" not in text


def test_a_queues_worker_has_its_metrics_on_a_port_of_their_own():
    """503 until there are any."""
    port = free_port()
    with MetricsServer("127.0.0.1", port) as door:
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/metrics").status_code == 503
        assert httpx.get(f"{url}/ping").status_code == 204

        async def exposition():
            return "a 1\n"

        door.publish(exposition)
        assert httpx.get(f"{url}/metrics").text == "a 1\n"
        assert httpx.get(f"{url}/run").status_code == 404
