"""A pool of HTTP/1.1 connections for the POSTs of results.

A POST takes 30 µs of CPU time here and 90 µs with aiohttp. At 800 POSTs/s, this leaves 5 % more of
the interpreter lock to the engine's thread. The pool reads only the status of a response, and has
no redirects, cookies, proxies or compression.
"""

import asyncio
import socket
import ssl
from functools import lru_cache
from typing import NamedTuple, cast

import aiohttp
import httptools
from aiohappyeyeballs import start_connection
from yarl import URL

from handler.engine.awake_clock import AwakeTimeout, AwakeTimer

POST_TIMEOUT_SECONDS = 600.0  # as in the SDK
CONNECT_TIMEOUT_SECONDS = 30.0  # as in aiohttp; includes TLS
KEEP_ALIVE_SECONDS = 15.0  # as in aiohttp; a proxy may silently drop an older connection
# New connections without an answer yet. A server drops those that its accept queue, often of 128,
# has no place for, and the kernel tries again a second later.
MAX_UNANSWERED = 100
MAX_UNANSWERED_SECONDS = 1.0  # then it is lost, or the server has taken it and answers slowly
WAKE_GRACE_SECONDS = 5.0  # for the answers that arrived while the worker was frozen
HAPPY_EYEBALLS_DELAY_SECONDS = 0.25  # RFC 8305; uvloop's create_connection does not do it
LINE_BREAKS = {ord("\r"): " ", ord("\n"): " "}
MAX_HEADS = 2048  # of requests that are kept for the next POST of the same job, about 1 kB each

Headers = tuple[tuple[str, str], ...]


class Origin(NamedTuple):
    """The server of a URL."""

    tls: bool
    host: str
    port: int


class PostResponse(NamedTuple):
    """The status line of a response."""

    status: int
    reason: str


class ConnectionPool:
    """Keep-alive connections of one event loop, reused last in, first out.

    Args:
        keep_alive_seconds: the maximum idle time of a reused connection.
        connect_timeout_seconds: the limit for a new connection, over all addresses of its host.
    """

    def __init__(
        self,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    ) -> None:
        self._keep_alive_seconds = keep_alive_seconds
        self._connect_timeout_seconds = connect_timeout_seconds
        self._idle: dict[Origin, list[_Connection]] = {}
        self._busy: set[_Connection] = set()
        self._unanswered = asyncio.Semaphore(MAX_UNANSWERED)
        self._ssl_context: ssl.SSLContext | None = None
        self._freezes = 0

    async def post(self, url: str, body: bytes, headers: Headers) -> PostResponse:
        """Send a POST and wait for the end of the response.

        Raises:
            aiohttp.ClientConnectionError: the connection failed, or a timeout.
        """
        origin, head = _request_head(url, headers)
        try:
            connection = self._take_idle(origin) or await self._connect_in_turn(origin)
            response = connection.send(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
            self._busy.add(connection)
            try:
                return await response
            finally:
                connection.end()
                self._busy.discard(connection)
                self._release(origin, connection)
        except aiohttp.ServerTimeoutError:  # also an OSError
            raise
        except OSError as error:
            raise aiohttp.ClientOSError(error.errno, error.strerror or str(error)) from error

    def wake(self) -> None:
        """Replace the connections that a freeze of the worker may have killed.

        A POST that is under way fails, so that it is sent again, if it has no answer
        WAKE_GRACE_SECONDS after the freeze, or after a part of its body was last sent.
        """
        self.close()
        self._freezes += 1  # busy connections are not reused: their answers may have come before it
        for connection in self._busy:
            connection.fail_unless_it_sends()

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def _take_idle(self, origin: Origin) -> "_Connection | None":
        """Return the most recently used connection; close the unusable ones."""
        idle = self._idle.get(origin, [])
        self._close_old(idle)
        while idle:
            connection = idle.pop()
            if connection.reusable:
                return connection
            connection.close()
        return None

    def _release(self, origin: Origin, connection: "_Connection") -> None:
        if connection.reusable and connection.freezes == self._freezes:
            connection.idle_since = asyncio.get_running_loop().time()
            idle = self._idle.setdefault(origin, [])
            self._close_old(idle)
            idle.append(connection)
        else:
            connection.close()
        if connection.turn is not None:
            connection.turn.end()

    async def _connect_in_turn(self, origin: Origin) -> "_Connection":
        """Return a new connection, or one that has become idle before it is its turn."""
        await self._unanswered.acquire()
        if (idle := self._take_idle(origin)) is not None:
            self._unanswered.release()
            return idle
        turn = _Turn(self._unanswered)
        try:
            connection = await self._connect(origin)
        except BaseException:
            turn.end()
            raise
        connection.turn = turn
        return connection

    def _close_old(self, idle: list["_Connection"]) -> None:
        """Close those that have been idle for too long; the first one for the longest time."""
        min_idle_since = asyncio.get_running_loop().time() - self._keep_alive_seconds
        while idle and idle[0].idle_since < min_idle_since:
            idle.pop(0).close()

    async def _connect(self, origin: Origin) -> "_Connection":
        freezes = self._freezes
        try:
            async with AwakeTimeout(self._connect_timeout_seconds):
                connection = await self._open(origin)
                connection.freezes = freezes
                return connection
        except TimeoutError as error:
            message = f"no connection in {self._connect_timeout_seconds:g} s"
            raise aiohttp.ServerTimeoutError(message) from error

    async def _open(self, origin: Origin) -> "_Connection":
        loop = asyncio.get_running_loop()
        if origin.tls and self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        addresses = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        connected = await start_connection(
            addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY_SECONDS
        )
        try:
            _, connection = await loop.create_connection(
                _Connection,
                sock=connected,
                ssl=self._ssl_context if origin.tls else None,
                server_hostname=origin.host if origin.tls else None,
            )
        except BaseException:
            connected.close()
            raise
        return connection


class _Turn:
    """A place among the unanswered connections, until it ends or MAX_UNANSWERED_SECONDS are over.

    Args:
        places: one of them is taken, and is given back once.
    """

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(MAX_UNANSWERED_SECONDS, self.end)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._places.release()


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time.

    Attributes:
        reusable: whether the last response is complete and the connection is still open.
        idle_since: begin of the idle time, on the event loop's clock.
        freezes: how many freezes of the worker were before it.
        turn: of a connection that was new; its first answer ends it.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._response: asyncio.Future[PostResponse] | None = None
        self._timer: AwakeTimer | None = None
        self._reason = b""
        self._status = 0  # of the current response; 0 before the end of its headers
        self.reusable = False
        self.idle_since = 0.0
        self.freezes = 0
        self.turn: _Turn | None = None

    def send(self, request: bytes) -> "asyncio.Future[PostResponse]":
        if self._transport is None:
            raise aiohttp.ServerDisconnectedError
        self.reusable = False
        self._response = asyncio.get_running_loop().create_future()
        self._timer = AwakeTimer(POST_TIMEOUT_SECONDS, self._time_out)
        self._transport.write(request)
        return self._response

    def end(self) -> None:
        """End the request, with or without an answer."""
        if self._timer is not None:
            self._timer.cancel()

    def _time_out(self) -> None:
        self._fail(aiohttp.ServerTimeoutError(f"no response in {POST_TIMEOUT_SECONDS:g} s"))

    def fail_unless_it_sends(self) -> None:
        """Fail the request if it neither is answered nor has sent more after the grace."""
        loop, unsent_bytes = asyncio.get_running_loop(), self._unsent_bytes()
        loop.call_later(WAKE_GRACE_SECONDS, self._check_that_it_sends, unsent_bytes)

    def _check_that_it_sends(self, unsent_bytes_before: int) -> None:
        if self._unsent_bytes() < unsent_bytes_before:
            self.fail_unless_it_sends()
        else:
            self._fail(aiohttp.ServerDisconnectedError("no answer after a freeze"))

    def _unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.close()

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is not a subclass

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(aiohttp.ServerDisconnectedError(f"invalid HTTP response: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self.reusable = None, False
        if (
            error is None and self._status >= 200
        ):  # a response without a length ends with its connection
            self._complete()
        self._fail(aiohttp.ServerDisconnectedError(str(error)) if error else None)

    # ---- httptools' callbacks ----

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        if self._status >= 200:  # otherwise an interim response
            self.reusable = self._parser.should_keep_alive()
            self._complete()
        self._reason, self._status = b"", 0

    def _complete(self) -> None:
        if self._response is not None and not self._response.done():
            reason = self._reason.decode("latin-1")
            self._response.set_result(PostResponse(self._status, reason))

    def _fail(self, error: Exception | None) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(error or aiohttp.ServerDisconnectedError())


@lru_cache(MAX_HEADS)
def _request_head(url: str, headers: Headers) -> tuple[Origin, bytes]:
    """Return the server of a POST, and its first lines without the length of the body."""
    target = URL(url)
    origin = Origin(target.scheme == "https", target.raw_host or "", target.port or 0)
    lines = [f"POST {target.raw_path_qs} HTTP/1.1", f"Host: {target.raw_authority}"]
    lines += [f"{name}: {value}".translate(LINE_BREAKS) for name, value in headers]
    return origin, "\r\n".join([*lines, ""]).encode()
