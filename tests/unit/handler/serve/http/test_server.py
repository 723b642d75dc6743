"""The HTTP server's thread pauses while the process forks."""

import os
import socket
import sys
import threading

import pytest

from handler.serve.http.server import HttpServer, connections_to

REQUEST = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def no_thread_switch():
    """Threads take turns only when one waits: between two lines no other one runs."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    yield
    sys.setswitchinterval(before)


async def answer(send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def fork(in_child):
    """Fork this process; return the exit code of the fork."""
    process = os.fork()
    if not process:
        os._exit(in_child())
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def connected(server):
    return socket.create_connection(("127.0.0.1", server.ports[0]), timeout=60)


def test_a_fork_waits_for_the_lock_of_a_request(no_thread_switch):
    """In the fork nobody would release it."""
    lock, locked, forking = threading.Lock(), threading.Event(), threading.Event()

    async def app(scope, receive, send):
        with lock:
            locked.set()
            forking.wait()
        await answer(send)

    with HttpServer(app, "127.0.0.1", {"PORT": 0}) as server, connected(server) as client:
        client.sendall(REQUEST)
        locked.wait()
        forking.set()
        assert fork(lambda: int(lock.locked())) == 0
        assert client.recv(1000).startswith(b"HTTP/1.1 204 ")


def test_a_fork_of_the_fork_waits_for_no_thread(caplog):
    """vLLM's core forks its ranks."""

    async def app(scope, receive, send):
        await answer(send)

    with HttpServer(app, "127.0.0.1", {"PORT": 0}) as server, connected(server) as client:
        assert fork(lambda: fork(lambda: 7) + len(caplog.records)) == 7
        client.sendall(REQUEST)
        assert client.recv(1000).startswith(b"HTTP/1.1 204 ")
    assert fork(lambda: 8) == 8
    assert caplog.records == []


def test_a_fork_has_no_socket_of_the_server():
    """Else a port stays open after the worker's end, and a client waits at a closed connection."""

    async def app(scope, receive, send):
        await answer(send)

    with HttpServer(app, "127.0.0.1", {"PORT": 0}) as server, connected(server) as client:
        client.sendall(REQUEST)
        client.recv(1000)
        assert len(connections_to(server.ports)) == 2  # with the one that listens
        assert fork(lambda: len(connections_to(server.ports))) == 0
        client.sendall(REQUEST)
        assert client.recv(1000).startswith(b"HTTP/1.1 204 ")


def test_a_connection_that_uvicorn_does_not_know_yet_is_found():
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        found = connections_to([listening.getsockname()[1]])
        assert sorted(found) == sorted([listening.fileno(), accepted.fileno()])
