"""Keep-alive connections to the platform, and their errors as those of aiohttp."""

import asyncio
import contextlib
import socket
import ssl
import subprocess

import aiohttp
import pytest
import uvloop

from handler.serve.queue import connections
from handler.serve.queue.connections import MAX_UNANSWERED, ConnectionPool, PostResponse

OK = PostResponse(200, "OK")
OK_BYTES = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
HEADERS = (("Authorization", "key"), ("X-Request-ID", "a\r\nInjected: b"))


class Server:
    """Sends each response in pieces; None closes the connection instead."""

    def __init__(self, *responses, tls=None):
        self._responses, self._tls, self.tasks = list(responses), tls, []
        self.requests, self.connections = [], 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://localhost:{self._server.sockets[0].getsockname()[1]}"
        self.request_received = asyncio.Event()
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await asyncio.gather(*self.tasks)  # they end with the client's connections

    async def _serve(self, reader, writer):
        self.tasks.append(asyncio.current_task())
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                self.requests.append(head + await reader.readexactly(length))
                self.request_received.set()
                pieces = self._responses.pop(0)
                for piece in pieces or ():
                    writer.write(piece)
                    await asyncio.sleep(0.01)  # usually the client reads it by itself
                if pieces is None or b"Connection: close" in b"".join(pieces):
                    break
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def post_in_turn(server, times):
    """Post one after the other; return the responses, or the types of the errors."""

    async def run():
        results = []
        async with server:
            with contextlib.closing(ConnectionPool()) as pool:
                for number in range(times):
                    try:
                        url = f"{server.url}/job-stream/ä/{number}?a=b"
                        results.append(await pool.post(url, b"{}", HEADERS))
                    except aiohttp.ClientError as error:
                        results.append(type(error))
        return results

    return uvloop.run(run())


def test_a_post_without_an_answer_ends(monkeypatch):
    """Its connection is not used again."""
    monkeypatch.setattr(connections, "POST_TIMEOUT_SECONDS", 0.1)

    async def post():
        async with Server([], [OK_BYTES]) as server:
            pool = ConnectionPool()
            with pytest.raises(aiohttp.ServerTimeoutError) as raised:
                async with asyncio.timeout(30):
                    await pool.post(server.url, b"{}", HEADERS)
            monkeypatch.setattr(connections, "POST_TIMEOUT_SECONDS", 60)
            answer = await pool.post(server.url, b"{}", HEADERS)
            pool.close()
            return str(raised.value), answer, server.connections

    assert uvloop.run(post()) == ("no response in 0.1 s", OK, 2)


def test_a_connection_is_reused_and_a_header_cannot_inject_another():
    server = Server([OK_BYTES], [OK_BYTES], [OK_BYTES])
    assert post_in_turn(server, 3) == [OK] * 3
    assert server.connections == 1
    port = server.url.rpartition(":")[2]
    assert server.requests[1].decode() == (
        "POST /job-stream/%C3%A4/1?a=b HTTP/1.1\r\n"
        f"Host: localhost:{port}\r\nAuthorization: key\r\nX-Request-ID: a  Injected: b\r\n"
        "Content-Length: 2\r\n\r\n{}"
    )


def test_simultaneous_posts_have_a_connection_each():
    async def run():
        server = Server(*[[OK_BYTES]] * 8)
        async with server:
            with contextlib.closing(ConnectionPool()) as pool:
                for _ in range(2):
                    posts = (pool.post(server.url, b"{}", HEADERS) for _ in range(4))
                    assert await asyncio.gather(*posts) == [OK] * 4
        return server.connections

    assert uvloop.run(run()) == 4


class PatientServer:
    """Answers nothing before `answers` is set; counts the POSTs that wait for it at once."""

    def __init__(self):
        self.answers, self.waiting, self.most = asyncio.Event(), 0, 0
        self.changed = asyncio.Condition()

    async def serve(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n{}"):
                self.waiting += 1
                self.most = max(self.most, self.waiting)
                async with self.changed:
                    self.changed.notify_all()
                await self.answers.wait()
                self.waiting -= 1
                writer.write(OK_BYTES)
        writer.close()

    async def wait_for(self, posts):
        async with self.changed:
            await self.changed.wait_for(lambda: self.waiting == posts)


@contextlib.asynccontextmanager
async def posts_at_once(number):
    """Send POSTs at once; yield the server, and the task of them all."""
    server = PatientServer()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=128)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
    async with listener, asyncio.timeout(60):
        with contextlib.closing(ConnectionPool()) as pool:
            posts = asyncio.gather(*(pool.post(url, b"{}", HEADERS) for _ in range(number)))
            yield server, posts


def test_no_more_new_connections_wait_for_an_answer_than_an_accept_queue_holds(monkeypatch):
    monkeypatch.setattr(connections, "MAX_UNANSWERED_SECONDS", 60.0)

    async def run():
        async with posts_at_once(3 * MAX_UNANSWERED) as (server, posts):
            await server.wait_for(MAX_UNANSWERED)
            server.answers.set()
            assert await posts == [OK] * 3 * MAX_UNANSWERED
            return server.most

    assert uvloop.run(run()) == MAX_UNANSWERED


def test_a_server_that_answers_slowly_holds_no_other_post_up(monkeypatch):
    monkeypatch.setattr(connections, "MAX_UNANSWERED_SECONDS", 0.01)

    async def run():
        async with posts_at_once(3 * MAX_UNANSWERED) as (server, posts):
            await server.wait_for(3 * MAX_UNANSWERED)
            server.answers.set()
            return await posts

    assert uvloop.run(run()) == [OK] * 3 * MAX_UNANSWERED


def test_connections_that_are_never_made_hold_no_other_post_up(monkeypatch):
    monkeypatch.setattr(connections, "MAX_UNANSWERED_SECONDS", 0.01)
    number = 3 * MAX_UNANSWERED

    async def run():
        all_begun, begun = asyncio.Event(), []

        class Unreachable(ConnectionPool):
            async def _open(self, origin):
                begun.append(origin)
                if len(begun) == number:
                    all_begun.set()
                await asyncio.Event().wait()

        pool = Unreachable()
        posts = [
            asyncio.create_task(pool.post("http://127.0.0.1:1/", b"{}", HEADERS))
            for _ in range(number)
        ]
        async with asyncio.timeout(60):
            await all_begun.wait()
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        return len(begun)

    assert uvloop.run(run()) == number


def test_connections_that_fail_hold_no_other_post_up():
    async def run():
        with contextlib.closing(ConnectionPool()) as pool:
            posts = (pool.post("http://127.0.0.1:1/", b"{}", HEADERS) for _ in range(300))
            return await asyncio.gather(*posts, return_exceptions=True)

    assert {type(error) for error in uvloop.run(run())} == {aiohttp.ClientOSError}


@pytest.mark.parametrize(
    ("pieces", "response"),
    [
        ([b"HTTP/1.1 404 Not ", b"Found\r\nContent-Length: 2\r\n", b"\r\nno"], (404, "Not Found")),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", OK_BYTES], OK),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"], OK),
    ],
    ids=["in pieces", "after an interim response", "chunked"],
)
def test_a_connection_is_reused_after_the_whole_response(pieces, response):
    server = Server(pieces, [OK_BYTES])
    assert post_in_turn(server, 2) == [response, OK]
    assert server.connections == 1


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\n\r\nConnection: close",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["end of the response", "header"],
)
def test_a_connection_that_the_server_closes_is_not_reused(response):
    server = Server([response], [OK_BYTES])
    assert post_in_turn(server, 2) == [OK, OK]
    assert server.connections == 2


def test_a_connection_that_was_idle_for_too_long_is_not_reused():
    async def run():
        server = Server([OK_BYTES], [OK_BYTES])
        async with server:
            with contextlib.closing(ConnectionPool(keep_alive_seconds=0.01)) as pool:
                await pool.post(server.url, b"{}", HEADERS)
                await asyncio.sleep(0.02)
                await pool.post(server.url, b"{}", HEADERS)
        return server.connections

    assert uvloop.run(run()) == 2


def test_the_connections_of_a_busy_moment_are_closed_while_one_is_enough():
    """The one that is used most recently is taken: the others would stay open for ever."""

    async def run():
        server = Server(*[[OK_BYTES]] * 1000)
        async with server, asyncio.timeout(20):
            with contextlib.closing(ConnectionPool(keep_alive_seconds=0.5)) as pool:
                await asyncio.gather(*(pool.post(server.url, b"{}", HEADERS) for _ in range(4)))
                while sum(task.done() for task in server.tasks) < 3:
                    await asyncio.sleep(0.01)
                    await pool.post(server.url, b"{}", HEADERS)

    uvloop.run(run())


@pytest.mark.parametrize("pieces", [None, [b"SSH-2.0-OpenSSH\r\n"]], ids=["closed", "not HTTP"])
def test_a_broken_connection_is_an_aiohttp_error(pieces):
    server = Server(pieces, [OK_BYTES])
    assert post_in_turn(server, 2) == [aiohttp.ServerDisconnectedError, OK]
    assert server.connections == 2


def test_a_refused_connection_is_an_aiohttp_error():
    with pytest.raises(aiohttp.ClientOSError, match=r"[Cc]onnect"):
        uvloop.run(ConnectionPool().post("http://127.0.0.1:1/", b"{}", HEADERS))


def test_the_response_to_a_cancelled_post_is_not_taken_for_the_next_ones():
    async def run():
        server = Server([b"HTTP/1.1 ", b"404 Not Found\r\n"], [OK_BYTES])
        async with server:
            with contextlib.closing(ConnectionPool()) as pool:
                first = asyncio.create_task(pool.post(server.url, b"{}", HEADERS))
                await server.request_received.wait()
                first.cancel()
                await asyncio.wait([first])
                response = await pool.post(server.url, b"{}", HEADERS)
        return response, server.connections

    assert uvloop.run(run()) == (OK, 2)


@pytest.mark.parametrize("listening", [False, True], ids=["refuses", "does not answer"])
def test_a_host_is_reached_when_its_first_address(listening, monkeypatch):
    """Happy eyeballs; a connection that nobody answers would last for minutes.

    On asyncio's loop: the resolver of uvloop's cannot be replaced.
    """

    async def run(first_address):
        server = Server([OK_BYTES])
        async with server:
            second_address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
            resolved = [
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
                for address in (first_address, second_address)
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_: resolved)
            with contextlib.closing(ConnectionPool()) as pool:
                async with asyncio.timeout(60):
                    return await pool.post("http://platform.test/", b"{}", HEADERS)

    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as first,
        contextlib.ExitStack() as stack,
    ):
        address = first.getsockname()
        if listening:
            stack.enter_context(socket.create_connection(address))  # the backlog is full
        else:
            first.close()
        assert asyncio.run(run(address)) == OK


def test_a_host_that_never_answers_is_an_aiohttp_error():
    """Here it accepts, and then says nothing to TLS."""

    async def run(port):
        with contextlib.closing(ConnectionPool(connect_timeout_seconds=0.2)) as pool:
            await pool.post(f"https://127.0.0.1:{port}/", b"{}", HEADERS)

    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(aiohttp.ServerTimeoutError, match=r"^no connection in 0\.2 s$"),
    ):
        uvloop.run(run(silent.getsockname()[1]))


def test_https_checks_the_certificate(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-keyout", str(key), "-out", str(certificate)),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    assert post_in_turn(Server(tls=tls), 1) == [aiohttp.ClientOSError]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert post_in_turn(Server([OK_BYTES], [OK_BYTES], tls=tls), 2) == [OK, OK]


def test_a_connection_that_was_busy_during_a_freeze_is_not_used_again():
    """The answer may have come before the freeze, and the connection be dead since then."""

    async def run():
        async with Server((OK_BYTES[:10], OK_BYTES[10:]), (OK_BYTES,)) as server:
            pool = ConnectionPool()
            first = asyncio.create_task(pool.post(server.url, b"", HEADERS))
            await server.request_received.wait()
            pool.wake()
            assert await first == OK
            assert await pool.post(server.url, b"", HEADERS) == OK
            pool.close()
            return server.connections

    assert asyncio.run(run()) == 2
