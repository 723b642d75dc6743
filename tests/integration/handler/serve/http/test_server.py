"""Connections: clients that leave, hang or send too much.

A rough load is in tests/engine/test_http_worker.py.
"""

import json
from contextlib import suppress

import pytest

from handler.serve.http import uvicorn_patches
from tests.support.conditions import wait_until
from tests.support.http_front_end import RunningFrontEnd, connected, raw


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


def test_several_requests_on_one_connection(shared_http):
    """One after the other, and sent all at once."""
    with connected(shared_http) as client:
        client.sendall(raw("GET", "/ping") * 3)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 3:
            answers += client.recv(1000)
        client.sendall(raw("GET", "/ping"))
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
