"""Connections to the platform that stay open: HTTP/1.1, one POST at a time on each.

A worker posts hundreds of small results a second. With aiohttp a POST takes 0.2 ms of the
interpreter's lock, which the engine's thread needs as well; here a fifth of that. Nothing of an
answer is looked at but its status: no redirect is followed, no cookie kept, no proxy asked.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import aiohttp
import httptools
from yarl import URL

POST_SECONDS = 600.0  # the SDK's
IDLE_SECONDS = 15.0  # aiohttp's; an older one may be dead without anybody knowing
LINE_BREAKS = {ord("\r"): " ", ord("\n"): " "}
Server = tuple[bool, str, int]  # whether by TLS, host, port


@dataclass(frozen=True)
class Answer:
    """What the server said: the HTTP status and its words."""

    status: int
    reason: str


class Connections:
    """The connections of one event loop, by their server; the newest idle one is used first."""

    def __init__(self) -> None:
        self._idle: dict[Server, list[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def post(self, url: str, body: bytes, headers: Iterable[tuple[str, str]]) -> Answer:
        """POST and wait for the whole answer.

        Raises:
            aiohttp.ClientConnectionError: there is no connection, or it broke before the answer.
        """
        target = URL(url)
        server = (target.scheme == "https", target.raw_host or "", target.port or 0)
        idle = self._idle.setdefault(server, [])
        head = _head(target, len(body), headers)
        try:
            async with asyncio.timeout(POST_SECONDS):
                connection = _fresh(idle) or await self._connected(server, idle)
                with connection:
                    answer = await connection.exchange(head + body)
        except TimeoutError as error:
            raise aiohttp.ServerTimeoutError(f"no answer in {POST_SECONDS:g} s") from error
        except OSError as error:
            raise aiohttp.ClientOSError(error.errno, error.strerror or str(error)) from error
        if connection.usable:
            connection.idle_since = asyncio.get_running_loop().time()
            idle.append(connection)
        return answer

    def close(self) -> None:
        """Close what is idle."""
        for connections in self._idle.values():
            for connection in tuple(connections):
                connection.close()
        self._idle.clear()

    async def _connected(self, server: Server, idle: "list[_Connection]") -> "_Connection":
        by_tls, host, port = server
        if by_tls and self._tls is None:
            self._tls = ssl.create_default_context()
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(idle), host, port, ssl=self._tls if by_tls else None
        )
        return connection


class _Connection(asyncio.Protocol):
    """One connection. As a context it is closed unless the answer inside came whole."""

    def __init__(self, idle: "list[_Connection]") -> None:
        self._idle = idle
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._reason = b""
        self._status = 0  # of an answer whose head is here
        self.usable = False
        self.idle_since = 0.0

    def exchange(self, request: bytes) -> "asyncio.Future[Answer]":
        """Send a request; the future has its answer."""
        if self._transport is None:
            raise aiohttp.ServerDisconnectedError
        self.usable, self._reason, self._status = False, b"", 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Close it."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.usable:
            self.close()

    # ---- what the loop calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(aiohttp.ServerDisconnectedError(f"the answer is no HTTP: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Say so to who waits for an answer, and be idle no longer."""
        self._transport, self.usable = None, False
        if error is None and self._status >= 200:  # an answer whose end is the connection's
            self._answered()
        with contextlib.suppress(ValueError):
            self._idle.remove(self)
        self._fail(aiohttp.ServerDisconnectedError(str(error)) if error else None)

    # ---- what the parser calls ----

    def on_status(self, reason: bytes) -> None:
        """Note the status's words."""
        self._reason += reason

    def on_headers_complete(self) -> None:
        """Note the status."""
        self._status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        """Hand out the answer; what comes before it (1xx) is none."""
        if self._status >= 200:
            self.usable = self._parser.should_keep_alive()
            self._answered()
        self._reason, self._status = b"", 0

    def _answered(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._status, self._reason.decode("latin-1")))

    def _fail(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or aiohttp.ServerDisconnectedError())


def _fresh(idle: "list[_Connection]") -> "_Connection | None":
    """Take the newest idle connection; if that is too old, all of them are."""
    oldest = asyncio.get_running_loop().time() - IDLE_SECONDS
    if idle and idle[-1].idle_since >= oldest:
        return idle.pop()
    for connection in tuple(idle):
        connection.close()
    idle.clear()
    return None


def _head(target: URL, body_bytes: int, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"POST {target.raw_path_qs} HTTP/1.1", f"Host: {target.raw_authority}"]
    lines += [f"{name}: {value}".translate(LINE_BREAKS) for name, value in headers]
    lines.append(f"Content-Length: {body_bytes}\r\n\r\n")
    return "\r\n".join(lines).encode()
