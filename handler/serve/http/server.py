"""uvicorn on a thread of its own, from before the engine is imported until after it has stopped.

It listens while the engine starts, so that a platform's health check is answered from the first
second on. This module does not know what is served.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from handler.engine.interface import AsgiApp
from handler.errors import InvalidSetting

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 20.0  # from a connection, or a request's first byte, to the end of its head
STALL_SECONDS = 120.0  # for a reader to make room for more
KEEP_ALIVE_SECONDS = 75
STOP_SECONDS = 5.0
BACKLOG = 2048
MOST_CONNECTIONS = 4096


class HttpServer:
    """Serves one app on some ports.

    Args:
        app: an ASGI app; it is called on the server's own loop.
        host: the address to listen on.
        ports: by the name of the setting that gives each.

    Raises:
        InvalidSetting: a port is taken, or the address is none of this machine.

    Use as `with HttpServer(…)`; leaving it closes what is open.
    """

    def __init__(self, app: AsgiApp, host: str, ports: Mapping[str, int]) -> None:
        self._sockets = [_listening(host, name, port) for name, port in ports.items()]
        self.ports = [each.getsockname()[1] for each in self._sockets]
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
            backlog=BACKLOG,
        )
        logging.getLogger("uvicorn").setLevel(
            logging.CRITICAL
        )  # what a client does wrong is no news
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._main, name="http", daemon=True)

    def __enter__(self) -> "HttpServer":
        os.register_at_fork(after_in_child=self._close_in_child)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS)

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._server.serve(sockets=self._sockets))

    def _close_in_child(self) -> None:
        """Leave ports and connections to the parent: a fork of it would keep them open."""
        for listening in self._sockets:
            listening.close()
        for connection in self._server.server_state.connections:
            transport: Any = connection.transport
            opened = transport and transport.get_extra_info("socket")
            if opened is not None and opened.fileno() >= 0:
                os.close(opened.fileno())


class _Protocol(HttpToolsProtocol):
    """uvicorn's, which hangs up where a head is too long or too slow, or where nobody reads."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._head_bytes = self._line_bytes = 0
        self._in_head = False
        self._cycles: list[RequestResponseCycle] = []  # uvicorn's own tells only the newest
        self._stall: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = self.loop.call_later(
            HEAD_SECONDS, transport.close
        )

    def data_received(self, data: bytes) -> None:
        """Hang up where a head does not come to its end."""
        super().data_received(data)
        if self._in_head or self._deadline is not None:
            self._head_bytes += len(data)
            self._bound_head(self._head_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a line of a head, which may have come with others at once."""
        super().on_header(name, value)
        self._line_bytes += len(name) + len(value)
        self._bound_head(self._line_bytes)

    def _bound_head(self, size: int) -> None:
        if size > MAX_HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._line_bytes = True, 0, 0
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_headers_complete(self) -> None:
        """It is over."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        self._cycles.append(self.cycle)

    def pause_writing(self) -> None:
        """The reader makes no room: wait for some, and not for ever."""
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """There is room again."""
        self._stop_stalling()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer, and tell every request that came over it."""
        self._stop_waiting()
        self._stop_stalling()
        super().connection_lost(exc)
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _stop_stalling(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _listening(host: str, name: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)  # who comes before the loop runs waits for it
    except OSError as error:
        listening.close()
        raise InvalidSetting(
            f"{name}={port} on {host} cannot be listened on: {error.strerror}."
        ) from error
    listening.set_inheritable(False)
    return listening
