"""The HTTP front end's limits, errors and ends, with a real server.

A real engine answers over HTTP in tests/engine/test_endpoint.py and test_http_worker.py.
"""

import json
import socket
import threading
import time
from contextlib import suppress

import httpx
import openai
import pytest
from starlette.datastructures import Headers

from handler.engine.runtime import EngineRuntime
from handler.environ import load
from handler.errors import EngineDied, InvalidSetting, Unauthorized
from handler.metrics.monitor import Monitor
from handler.serve.batch import run
from handler.serve.http import jobs, uvicorn_patches
from handler.serve.http.auth import ApiKeys
from handler.serve.http.lifecycle import HttpFrontEnd
from handler.serve.http.metrics_server import MetricsServer
from handler.startup.timings import StartupTimings
from tests.support.conditions import wait_until
from tests.support.http_worker import free_port
from tests.support.stand_in_engine import (
    EMBEDDINGS,
    ERROR,
    USAGE,
    StandInEngine,
    text_event,
    worker_on,
)

PROMPT = {"prompt": "Hi"}
STREAM = PROMPT | {"stream": True}


class RunningFrontEnd:
    """The HTTP front end on a thread of its own, on a stand-in engine, and calls of it."""

    def __init__(self, max_jobs=2, **environ):
        environ = {"PORT": str(free_port()), "API_KEY": "one,two", "MAX_QUEUE": "1"} | environ
        self.settings = load({name: value for name, value in environ.items() if value})
        self.url = f"http://127.0.0.1:{self.settings.http_port}"
        self.engine = StandInEngine()
        self.max_jobs = max_jobs
        self.failure = None

    def __enter__(self):
        self._runtime = EngineRuntime(self.engine)
        self.front_end = HttpFrontEnd(self.settings).__enter__()
        return self

    def open(self, request_timeout_seconds=None):
        """Start the engine, and serve."""
        self._runtime.__enter__()
        self._runtime.wait_until_up()
        self.monitor = Monitor(self._runtime, StartupTimings(time.time()), 2).__enter__()
        worker = worker_on(
            self._runtime,
            max_jobs=self.max_jobs,
            front_end=self.front_end,
            request_timeout_seconds=request_timeout_seconds,
            monitor=self.monitor,
            log_content=self.settings.log_content,
        )
        self._thread = threading.Thread(target=self._serve, args=(worker,))
        self._thread.start()
        wait_until(lambda: self.ping() == 200)
        return self

    def _serve(self, worker):
        try:
            self.front_end.serve(worker, self.max_jobs, self.monitor)
        except EngineDied as error:
            self.failure = error

    def terminate(self):
        """Do what SIGTERM does, whose handler only the main thread can install."""
        self.front_end._signalled(15, None)

    def __exit__(self, *_):
        if hasattr(self, "monitor"):
            if self._thread.is_alive():
                self.terminate()
            self._thread.join(10)
            self.monitor.__exit__()
            self._runtime.stop()
        self.front_end.__exit__()

    @property
    def admission(self):
        return self.front_end._app.service.admission

    @property
    def connections(self):
        return set(self.front_end._server._server.server_state.connections)

    def finish(self):
        """Wait for the end of serving."""
        self._thread.join(10)
        assert not self._thread.is_alive()

    def ping(self):
        return httpx.get(f"{self.url}/ping").status_code

    def call(self, method, path, key="one", **more):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.request(
            method, self.url + path, headers=headers | more.pop("headers", {}), timeout=10, **more
        )

    def complete(self, prompt="Hi", **more):
        return self.call("POST", "/v1/completions", json={"prompt": prompt, **more})


@pytest.fixture(scope="module", autouse=True)
def no_signal_handlers():
    """A worker serves on its main thread, where signal handlers can be installed; here not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handler.serve.http.lifecycle.signal.signal", lambda *_: None)
        yield


@pytest.fixture
def http():
    """A front end of the test's own."""
    with RunningFrontEnd() as made:
        yield made.open()


@pytest.fixture(scope="module")
def shared_http():
    """One front end for the tests that change nothing in it: a start takes half a second."""
    with RunningFrontEnd() as made:
        yield made.open()


def message(answer):
    return answer.json()["error"]["message"]


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


def test_a_health_port_of_its_own_answers_a_ping_and_nothing_else():
    """What a platform's health check reaches, nobody else may use."""
    health = free_port()
    with RunningFrontEnd(PORT_HEALTH=str(health)) as http:
        http.open()
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
def test_one_of_the_keys_is_needed(shared_http, headers, status, path):
    """As OpenAI's clients send it, or Anthropic's."""
    answer = shared_http.call("GET", path, key=None, headers=headers)
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
        with RunningFrontEnd(API_KEY="", **meant) as http:
            assert http.open().call("GET", "/v1/models", key=None).status_code == 200


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        *(("localhost", True), ("LOCALHOST:80", True), ("127.0.0.1:8000", True)),
        *(("[::1]", True), ("[::1]:8000", True), ("", False)),
        *(("a.example", False), ("127.0.0.1.a.example", False), ("[::1", False)),
    ],
)
def test_a_host_header_must_name_this_machine(host, passes):
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
    with RunningFrontEnd(API_KEY="", HTTP_HOST="127.0.0.1") as http:
        http.open()
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        body = json.dumps(PROMPT)
        call = ("POST", "/v1/completions", None)
        assert http.call(*call, headers=headers, content=body).status_code == 401
        moved = {"Host": "a.example", "Origin": "http://a.example"}
        answer = http.call(*call, headers=moved, json=PROMPT)
        assert (answer.status_code, message(answer)) == (
            *(401, "Call this worker as localhost or 127.0.0.1."),
        )
        own = headers | {"Origin": http.url}
        assert http.call(*call, headers=own, content=body).status_code == 200


def test_a_page_that_is_named_may_use_the_model_and_no_other():
    """Nor one whose name has been made to lead here; `*` is any."""
    named = {"Origin": "https://a.example"}
    others = ({"Origin": "https://c.example"}, {"Host": "c.example:8000"})
    for cors_origins, codes in (("https://a.example", [200, 401, 401]), ("*", [200, 200, 200])):
        with RunningFrontEnd(API_KEY="", HTTP_HOST="127.0.0.1", CORS_ORIGINS=cors_origins) as http:
            http.open()
            answers = [
                http.call("POST", "/v1/completions", None, headers=headers, json=PROMPT)
                for headers in (named, *others)
            ]
            assert [each.status_code for each in answers] == codes


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


def test_a_port_that_is_taken_is_refused():
    """With its name."""
    with RunningFrontEnd() as http, pytest.raises(InvalidSetting) as raised:
        HttpFrontEnd(http.settings)
    assert str(raised.value) == (
        f"PORT={http.settings.http_port} on 0.0.0.0 is not available: Address already in use."
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
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
def test_an_unknown_route_or_method_is_refused(shared_http, method, path, status, error):
    """Routes are allowed, not forwarded, and each error says what would be right."""
    if status == 405 and path == "/status/x":
        path = f"/status/{shared_http.call('POST', '/run', json={'input': PROMPT}).json()['id']}"
        error = f"{path} takes GET or POST, not DELETE."
    answer = shared_http.call(method, path)
    assert (answer.status_code, message(answer)[: len(error)]) == (status, error)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("prefix", ["", "/openai", "/v2/any/openai"])
def test_a_stream_comes_as_the_engine_writes_it(shared_http, prefix):
    """With the usage event only where the request has include_usage."""
    answer = shared_http.call("POST", f"{prefix}/v1/completions", json=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.content == text_event("one ") + text_event("two") + b"data: [DONE]\n\n"
    counted = STREAM | {"stream_options": {"include_usage": True}}
    assert '"usage"' in shared_http.call("POST", f"{prefix}/v1/completions", json=counted).text


def test_an_error_in_a_stream_is_its_last_event(shared_http):
    """What came before it stays, and what the engine sends after it means nothing."""
    answer = shared_http.call("POST", "/v1/completions", json={"prompt": "broken", "stream": True})
    before, _, last = answer.content.strip().rpartition(b"\n\n")
    assert before + b"\n\n" == text_event("one ") + text_event("two")
    error = ERROR | {"message": "device lost at [path]"}
    assert json.loads(last.removeprefix(b"data: ")) == {"error": error}


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
    assert ", first token 0." in broken.getMessage()
    assert nothing.getMessage().startswith("? 404 refused, 0 tokens in")
    assert plain.fields.keys() == {
        *("route", "outcome", "status", "promptTokens", "completionTokens", "cachedTokens"),
        *("firstTokenSeconds", "seconds"),
    }
    assert "secret" not in caplog.text


def requests_in(caplog):
    return [record for record in caplog.records if hasattr(record, "fields")]


def test_the_log_has_texts_with_log_content(caplog):
    """Of prompts and completions."""
    caplog.set_level("INFO", "handler")
    with RunningFrontEnd(LOG_CONTENT="1") as http:
        http.open().complete("a secret")
    [line] = requests_in(caplog)
    assert json.loads(line.fields["asked"])["prompt"] == "a secret"
    assert json.loads(line.fields["answered"])["choices"] == [{"text": "a secret"}]


def test_the_playground_can_be_turned_off(http):
    """It is a page that needs no key and loads nothing from anywhere."""
    page = httpx.get(f"{http.url}/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "http" not in page.text
    with RunningFrontEnd(PLAYGROUND="0") as without:
        assert without.open().call("GET", "/").status_code == 404


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
    assert http.engine.running_requests == 2
    refused = [
        http.complete(),
        http.call("POST", "/run", json={"input": PROMPT}),
    ]
    assert [(each.status_code, each.headers["retry-after"]) for each in refused] == [(429, "1")] * 2
    text = http.call("GET", "/metrics").text
    assert value(text, 'llm_worker_requests_total{outcome="rejected",route="/v1/completions"}') == 1
    assert value(text, 'llm_worker_requests_total{outcome="rejected",route="?"}') == 1
    assert message(refused[0]) == "2 requests are being answered and 1 wait: try again soon."
    assert http.call("GET", "/v1/models").status_code == 200  # it is no work
    http.engine.may_answer.set()
    for thread in threads:
        thread.join()
    assert answers == [200] * 3
    assert (admission.running, admission.waiting) == (0, 0)


def connected(http):
    opened = socket.create_connection(("127.0.0.1", http.settings.http_port))
    opened.settimeout(5)
    return opened


def raw(method, path, body=b"", length=None):
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\n"
    return (
        f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body
    )


def test_a_client_that_leaves_aborts_its_request(http):
    """While it is answered, and while it waits."""
    admission = http.admission
    bodies = [b'{"prompt": "endless", "stream": true}'] * 2 + [b'{"prompt": "wait"}']
    clients = []
    for number, body in enumerate(bodies, 1):
        clients.append(connected(http))
        clients[-1].sendall(raw("POST", "/v1/completions", body))
        wait_until(lambda number=number: admission.running + admission.waiting == number)
    clients.pop().close()
    wait_until(lambda: admission.waiting == 0)
    assert admission.running == 2
    for client in clients:
        client.close()
    wait_until(lambda: http.engine.running_requests == 0 and admission.running == 0)


def test_a_client_that_stops_reading_loses_its_slot(http, monkeypatch):
    """Its stream fills the connection, and no more is kept for it."""
    monkeypatch.setattr(uvicorn_patches, "STALL_TIMEOUT_SECONDS", 0.2)
    with connected(http) as client:
        client.sendall(raw("POST", "/v1/completions", b'{"prompt": "flood", "stream": true}'))
        wait_until(lambda: http.engine.running_requests == 1)
        wait_until(lambda: http.engine.running_requests == 0, 20)
    assert http.admission.running == 0


def test_a_client_that_sends_ahead_and_leaves_aborts_what_runs(http):
    """Two requests on one connection: the first is not forgotten for the second."""
    body = b'{"prompt": "endless", "stream": true}'
    with connected(http) as client:
        client.sendall(raw("POST", "/v1/completions", body) + raw("GET", "/ping"))
        wait_until(lambda: http.engine.running_requests == 1)
    wait_until(lambda: http.engine.running_requests == 0)


def test_an_error_before_the_body_closes_the_connection(http):
    """What is left of the body would be taken for the next request."""
    with connected(http) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        answer = b""
        while piece := client.recv(1000):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 401 ")


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


@pytest.mark.parametrize(
    "sent", [b"", b"GET /ping HTTP/1.1\r\nX: "], ids=["nothing", "half a head"]
)
def test_a_head_that_does_not_come_is_not_waited_for(sent, monkeypatch):
    """The connection is closed without a word."""
    monkeypatch.setattr(uvicorn_patches, "HEAD_TIMEOUT_SECONDS", 0.2)
    with RunningFrontEnd() as http, connected(http) as client:
        client.sendall(sent)
        assert client.recv(1000) == b""


def test_a_head_that_is_too_long_is_not_read(http):
    """64 kB are enough for anybody."""
    with connected(http) as client:
        try:
            client.sendall(b"GET /ping HTTP/1.1\r\nX: " + b"x" * 70_000)
            answer = client.recv(1000)
        except ConnectionError:  # it was closed while the rest was on its way
            answer = b""
    assert answer == b""
    assert http.ping() == 200


def test_a_heads_end_that_comes_in_two_parts_ends_it(http):
    """With a large body right behind."""
    body = json.dumps({"prompt": "x" * 200_000}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\n"
    first = head + b"Content-Length: %d\r\n\r" % len(body)
    with connected(http) as client:
        client.sendall(first)
        wait_until(lambda: len(first) in [each._head_bytes for each in http.connections])
        client.sendall(b"\n" + body)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_connection_too_many_is_closed(http, monkeypatch):
    """The others stay."""
    monkeypatch.setattr(uvicorn_patches, "MAX_CONNECTIONS", 1)
    with connected(http) as first:
        wait_until(lambda: len(http.connections) == 1)
        with connected(http) as second, suppress(ConnectionResetError):
            assert second.recv(1000) == b""
        first.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.recv(1000).startswith(b"HTTP/1.1 200")


def test_large_bodies_share_one_memory(http, monkeypatch):
    """A body that does not fit gets 429; one that is answered makes room."""
    monkeypatch.setattr("handler.serve.http.body.MAX_BODIES_BYTES", 1_000)
    answer = http.complete("x" * 2_000)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert message(answer) == "Too many large requests are being answered: try again soon."
    assert [http.complete("x" * 600).status_code for _ in range(3)] == [200, 200, 200]


def test_the_oldest_results_make_room(http, monkeypatch):
    """Where all of them together are too large."""
    monkeypatch.setattr(jobs, "MAX_KEPT_BYTES", 300)
    names = [http.call("POST", "/runsync", json={"input": PROMPT}).json()["id"] for _ in "abc"]
    statuses = [http.call("GET", f"/status/{name}").status_code for name in names]
    assert statuses == [404, 200, 200]


def test_several_requests_on_one_connection(shared_http):
    """One after the other, and sent all at once."""
    with connected(shared_http) as client:
        client.sendall(raw("GET", "/ping") * 3)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 3:
            answers += client.recv(1000)
        client.sendall(raw("GET", "/ping"))
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_no_other_page_may_call_it_unless_it_is_named(http):
    """CORS is off by default."""
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    off = http.call("OPTIONS", "/v1/completions", headers=preflight)
    assert (off.status_code, "access-control-allow-origin" in off.headers) == (405, False)
    with RunningFrontEnd(CORS_ORIGINS="https://a.example, https://b.example") as open_http:
        answers = [
            open_http.call("OPTIONS", "/v1/completions", headers=preflight | {"Origin": origin})
            for origin in ("https://a.example", "https://c.example")
        ]
    assert [each.headers.get("access-control-allow-origin") for each in answers] == [
        "https://a.example",
        None,
    ]


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
        thread.join(10)
    http.finish()
    assert str(http.failure) == "The engine died. The platform has to replace this worker."
    plain = next(each for each in stream if not isinstance(each, str))
    streamed = next(each for each in stream if isinstance(each, str))
    assert (plain.status_code, plain.json()["error"]["type"]) == (503, "ServiceUnavailableError")
    assert '"code": 503' in streamed.strip().rpartition("\n\n")[2]


# ---- /run and what belongs to it


def finished(http, name):
    while True:
        status = http.call("GET", f"/status/{name}").json()
        if status["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
            return status
        time.sleep(0.01)


def test_a_job_is_run_and_its_result_is_kept(http):
    """As on a queue endpoint, from its id to its times."""
    submitted = http.call("POST", "/v2/any/run", json={"input": PROMPT}).json()
    assert submitted == {"id": submitted["id"], "status": "IN_QUEUE"}
    status = finished(http, submitted["id"])
    assert status["output"] == [{"choices": [{"text": "Hi"}], "usage": USAGE}]
    assert (status["status"], type(status["delayTime"]), type(status["executionTime"])) == (
        *("COMPLETED", int, int),
    )
    jobs = http.call("GET", "/health").json()["jobs"]
    assert jobs == {"inQueue": 0, "inProgress": 0, "completed": 1, "failed": 0, "retried": 0}


def test_a_jobs_stream_is_read_in_pieces(http):
    """Each call brings what is new; together it is all."""
    name = http.call("POST", "/run", json={"input": STREAM}).json()["id"]
    pieces, state = [], ""
    while state != "COMPLETED":
        answer = http.call("GET", f"/stream/{name}").json()
        pieces += [piece["output"] for piece in answer["stream"]]
        state = answer["status"]
    text = "".join(choice["text"] for piece in pieces for choice in piece["choices"])
    assert text == "one two"
    assert http.call("GET", f"/stream/{name}").json() == {"status": "COMPLETED", "stream": []}


def test_runsync_waits_no_longer_than_its_wait(http):
    """A job that is not over by then has its result at /status."""
    done = http.call("POST", "/runsync", json={"input": {"route": "completions", "body": PROMPT}})
    assert done.json()["output"] == [{"choices": [{"text": "Hi"}], "usage": USAGE}]
    body = {"input": {"prompt": "wait"}}
    early = http.call("POST", "/runsync?wait=50", json=body).json()
    assert early["status"] == "IN_PROGRESS"
    http.engine.may_answer.set()
    assert finished(http, early["id"])["status"] == "COMPLETED"


def test_a_job_that_fails_says_why(http):
    """Its error is the text that a queue's job has."""
    failed = http.call("POST", "/runsync", json={"input": {"nothing": 1}}).json()
    assert failed["status"] == "FAILED"
    assert json.loads(failed["error"])["error"]["code"] == 400


def test_a_job_is_cancelled_and_a_job_times_out(http):
    """Both are gone from the engine."""
    body = {"input": {"prompt": "endless", "stream": True}}
    name = http.call("POST", "/run", json=body).json()["id"]
    wait_until(lambda: http.engine.running_requests == 1)
    assert http.call("POST", f"/cancel/{name}").json() == {"id": name, "status": "CANCELLED"}
    wait_until(lambda: http.engine.running_requests == 0)
    assert http.call("GET", f"/status/{name}").json()["status"] == "CANCELLED"
    timed = http.call("POST", "/runsync", json=body | {"policy": {"executionTimeout": 100}}).json()
    assert (timed["status"], timed["error"]) == (*("TIMED_OUT", timed["error"]),)
    error = json.loads(timed["error"])["error"]
    assert (error["code"], error["message"]) == (
        *(408, "The request took longer than policy.executionTimeout=0.1 seconds."),
    )
    text = http.call("GET", "/metrics").text
    ended = 'llm_worker_requests_total{outcome="%s",route="/v1/completions"}'
    assert [value(text, ended % outcome) for outcome in ("cancelled", "timeout")] == [1, 1]
    wait_until(lambda: http.engine.running_requests == 0)
    assert http.admission.running == 0


def batch_of(*prompts, **more):
    return {
        "requests": [
            {"custom_id": p, "method": "POST", "url": "/v1/completions", "body": {"prompt": p}}
            for p in prompts
        ],
        **more,
    }


def test_a_batch_is_one_job_whose_lines_are_requests(http, monkeypatch):
    """Its progress stands where its output will be."""
    monkeypatch.setattr(run, "PROGRESS_INTERVAL_SECONDS", 0.02)
    job = {"input": {"batch": batch_of("a", "b", "c", "wait", concurrency=2)}}
    name = http.call("POST", "/run", json=job).json()["id"]
    done = {"total": 4, "completed": 3, "failed": 0}
    wait_until(lambda: http.call("GET", f"/status/{name}").json().get("output") == done, 10)
    assert http.admission.running == 1
    assert http.complete().status_code == 200
    http.engine.may_answer.set()
    status = finished(http, name)
    [output] = status["output"]
    assert output["batch"] == done | {"completed": 4}
    assert [each["custom_id"] for each in output["results"]] == ["a", "b", "c", "wait"]
    metrics = http.call("GET", "/metrics").text
    ended = 'llm_worker_requests_total{outcome="ok",route="%s"}'
    assert value(metrics, ended % "/v1/completions") == 5
    assert value(metrics, ended % "batch") == 1


def test_no_more_batches_than_some_and_a_job_keeps_its_room(http, monkeypatch):
    """Each may be large: its body counts until it is over."""
    monkeypatch.setattr(jobs, "MAX_BATCHES", 1)
    job = {"input": {"batch": batch_of("wait", concurrency=1)}}
    name = http.call("POST", "/run", json=job).json()["id"]
    refused = http.call("POST", "/run", json=job)
    assert (refused.status_code, message(refused)) == (
        *(429, "The limit of 1 batches at once is reached: try again later."),
    )
    room = http.front_end._app._memory
    assert room.taken_bytes == len(json.dumps(job, separators=(",", ":")))
    assert http.complete().status_code == 200
    http.engine.may_answer.set()
    finished(http, name)
    wait_until(lambda: room.taken_bytes == 0)
    assert http.call("POST", "/runsync", json=job).json()["status"] == "COMPLETED"


def test_the_lines_of_a_batch_take_slots_like_requests():
    """With one slot one line is sent at a time, and a drain waits for all of them."""
    with RunningFrontEnd(max_jobs=1) as http:
        http.open()
        job = {"input": {"batch": batch_of("wait", "b", "c", concurrency=3)}}
        name = http.call("POST", "/run", json=job).json()["id"]
        admission = http.admission
        wait_until(lambda: http.engine.running_requests == 1)
        assert (admission.running, admission.waiting) == (1, 0)
        http.terminate()
        wait_until(lambda: http.ping() == 503)
        http.engine.may_answer.set()
        [output] = finished(http, name)["output"]
        assert output["batch"] == {"total": 3, "completed": 3, "failed": 0}
        assert (admission.running, http.engine.running_requests) == (0, 0)


def test_a_batch_is_cancelled_or_times_out_with_all_its_lines(http):
    """executionTimeout is for the whole of it."""
    job = {"input": {"batch": batch_of("a", "wait", "b", concurrency=2)}}
    name = http.call("POST", "/run", json=job).json()["id"]
    wait_until(lambda: http.engine.running_requests == 1)
    assert http.call("POST", f"/cancel/{name}").json()["status"] == "CANCELLED"
    wait_until(lambda: http.engine.running_requests == 0)
    timed = http.call("POST", "/runsync", json=job | {"policy": {"executionTimeout": 200}}).json()
    assert timed["status"] == "TIMED_OUT"
    wait_until(lambda: http.engine.running_requests == 0)
    assert http.admission.running == 0


@pytest.mark.parametrize(
    ("body", "error"),
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
def test_an_invalid_job_is_refused(shared_http, body, error):
    """400, and what would be right."""
    answer = shared_http.call("POST", "/run", json=body)
    if error is None:  # as good as none
        assert answer.status_code == 200
    else:
        assert (answer.status_code, message(answer)[: len(error)]) == (400, error)


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


# ---- the metrics


def value(text, name):
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[-1])


def test_the_exposition_has_the_engines_metrics_and_the_workers(http):
    """One text, and nothing of the user's in a label."""
    http.complete()
    http.call("POST", "/v1/completions", json=STREAM)
    http.call("POST", "/v1/secret-path", json=STREAM)
    text = http.call("GET", "/metrics").text
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
    with MetricsServer("127.0.0.1", port) as server:
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/metrics").status_code == 503
        assert httpx.get(f"{url}/ping").status_code == 204

        async def exposition():
            return "a 1\n"

        server.publish(exposition)
        assert httpx.get(f"{url}/metrics").text == "a 1\n"
        assert httpx.get(f"{url}/run").status_code == 404
