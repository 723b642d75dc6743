"""Connections to the platform stay open, and their errors are the ones that the SDK catches."""

import asyncio
import ssl
import subprocess

import aiohttp
import pytest

from handler.serve.queue.connections import Answer, Connections

TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
HEADERS = [("Authorization", "key"), ("X-Request-ID", "a\r\nInjected: b")]


class Server:
    """Answers each request with the bytes planned for it; None closes the connection instead."""

    def __init__(self, *answers, tls=None):
        self._answers, self._tls = list(answers), tls
        self.requests, self.connections = [], 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://localhost:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = self._answers.pop(0)
                if answer is None:
                    break
                for piece in answer if isinstance(answer, list) else [answer]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.01)
                if b"Connection: close" in b"".join(answer if isinstance(answer, list) else []):
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


def posted(server, times=1):
    """Post so often, one after the other; return the answers or errors."""

    async def run():
        connections, answers = Connections(), []
        async with server:
            for number in range(times):
                try:
                    url = f"{server.url}/job-stream/ä/{number}?a=b"
                    answers.append(await connections.post(url, b"{}", HEADERS))
                except aiohttp.ClientError as error:
                    answers.append(type(error))
            connections.close()
            await asyncio.sleep(0.01)
        return answers

    return asyncio.run(run())


def test_a_connection_is_used_again():
    """With the request as the platform expects it, and nothing slipped in by a job's id."""
    server = Server(TAKEN, TAKEN, TAKEN)
    assert posted(server, 3) == [Answer(200, "OK")] * 3
    assert server.connections == 1
    port = server.url.rpartition(":")[2]
    assert server.requests[1].decode() == (
        "POST /job-stream/%C3%A4/1?a=b HTTP/1.1\r\n"
        f"Host: localhost:{port}\r\nAuthorization: key\r\nX-Request-ID: a  Injected: b\r\n"
        "Content-Length: 2\r\n\r\n{}"
    )


def test_as_many_connections_as_posts_at_once():
    """And no more."""

    async def run():
        connections, server = Connections(), Server(*[TAKEN] * 8)
        async with server:
            for _ in range(2):
                posts = (connections.post(server.url, b"{}", HEADERS) for _ in range(4))
                assert await asyncio.gather(*posts) == [Answer(200, "OK")] * 4
            connections.close()
            await asyncio.sleep(0.01)
        return server.connections

    assert asyncio.run(run()) == 4


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ([b"HTTP/1.1 404 Not ", b"Found\r\nContent-Length: 2\r\n", b"\r\nno"], (404, "Not Found")),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", TAKEN], (200, "OK")),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"],
            (200, "OK"),
        ),
    ],
    ids=["in pieces", "after a 1xx", "chunked"],
)
def test_an_answer_is_read_to_its_end(answer, seen):
    """And the connection is good for the next one."""
    server = Server(answer, TAKEN)
    assert posted(server, 2) == [Answer(*seen), Answer(200, "OK")]
    assert server.connections == 1


def test_an_answer_may_end_with_its_connection():
    """As that of a server which does not say how long it is."""
    closing = [b"HTTP/1.1 200 OK\r\n\r\nConnection: close"]
    server = Server(closing, TAKEN)
    assert posted(server, 2) == [Answer(200, "OK")] * 2
    assert server.connections == 2


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch):
    """Something between here and there may have forgotten it."""
    monkeypatch.setattr("handler.serve.queue.connections.IDLE_SECONDS", -1.0)
    server = Server(TAKEN, TAKEN)
    assert posted(server, 2) == [Answer(200, "OK")] * 2
    assert server.connections == 2


def test_a_connection_that_the_server_closes_is_not_used_again():
    """Whether it says so or does so."""
    closing = [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"]
    server = Server(closing, TAKEN)
    assert posted(server, 2) == [Answer(200, "OK")] * 2
    assert server.connections == 2


@pytest.mark.parametrize("answer", [None, b"SSH-2.0-OpenSSH\r\n"], ids=["closed", "no HTTP"])
def test_a_broken_connection_is_an_error_that_the_sdk_knows(answer):
    """The next POST takes a new one."""
    server = Server(answer, TAKEN)
    assert posted(server, 2) == [aiohttp.ServerDisconnectedError, Answer(200, "OK")]
    assert server.connections == 2


def test_a_server_that_is_not_there():
    """Port 1 takes no connection."""
    with pytest.raises(aiohttp.ClientOSError, match=r"[Cc]onnect"):
        asyncio.run(Connections().post("http://127.0.0.1:1/", b"{}", HEADERS))


def test_a_post_that_is_given_up_leaves_no_connection_to_the_next():
    """The answer to a stopped job's POST is not taken for another's."""

    async def run():
        connections, server = Connections(), Server([b"HTTP/1.1 ", b"200 OK\r\n"], TAKEN)
        async with server:
            first = asyncio.create_task(connections.post(server.url, b"{}", HEADERS))
            while not server.requests:
                await asyncio.sleep(0.001)
            first.cancel()
            await asyncio.wait([first])
            answer = await connections.post(server.url, b"{}", HEADERS)
            connections.close()
            await asyncio.sleep(0.01)
        return answer, server.connections

    assert asyncio.run(run()) == (Answer(200, "OK"), 2)


def test_https_with_a_certificate_that_is_checked(tmp_path, monkeypatch):
    """The platform's is one that the machine trusts; another is refused."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "1"]
    subprocess.run(
        ["openssl", "req", "-x509", *made, *named],
        check=True,
        capture_output=True,
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    assert posted(Server(tls=tls)) == [aiohttp.ClientOSError]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert posted(Server(TAKEN, TAKEN, tls=tls), 2) == [Answer(200, "OK")] * 2
