"""Replaced parts of uvicorn.

All rows are needed since uvicorn 0.54; older versions were not checked.
tests/contract/test_uvicorn.py has a test for each.

| replaced                     | why                                        | until               |
| ---------------------------- | ------------------------------------------ | ------------------- |
| `HttpToolsProtocol`, by a    | It has no limit on the size of a request   | `uvicorn.Config`    |
| subclass                     | head, on the time for it, or on a client   | has these limits    |
|                              | that stops reading. It does not notify     |                     |
|                              | pipelined requests of a disconnect.        |                     |

| read or set                  | why                                        | until               |
| ---------------------------- | ------------------------------------------ | ------------------- |
| `HttpToolsProtocol.loop`,    | The subclass needs them.                   | the subclass goes   |
| `.transport`, `.cycle`,      |                                            |                     |
| `.connections`               |                                            |                     |
| `RequestResponseCycle`:      | It notifies pipelined requests.            | uvicorn notifies    |
| `.response_complete`,        |                                            | them                |
| `.disconnected`,             |                                            |                     |
| `.message_event`             |                                            |                     |
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from handler.engine.awake_clock import AwakeTimer

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_SECONDS = 20.0  # from the connection, or a request's first byte, to the head's end
STALL_TIMEOUT_SECONDS = 120.0  # for a client that does not read
MAX_CONNECTIONS = 4096


class LimitedProtocol(HttpToolsProtocol):
    """Closes connections with a long or slow request head, or with a client that stops reading."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        self._head_bytes = self._line_bytes = 0
        self._in_head = False
        self._cycles: list[RequestResponseCycle] = []  # uvicorn notifies only the newest
        self._stall: AwakeTimer | None = None
        self._deadline: AwakeTimer | None = AwakeTimer(HEAD_TIMEOUT_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head or self._deadline is not None:
            self._head_bytes += len(data)
            self._check_head(self._head_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._line_bytes += len(name) + len(value)
        self._check_head(self._line_bytes)

    def _check_head(self, size: int) -> None:
        if size > MAX_HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes, self._line_bytes = True, 0, 0
        if self._deadline is None:
            self._deadline = AwakeTimer(HEAD_TIMEOUT_SECONDS, self.transport.close)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._cancel_deadline()
        super().on_headers_complete()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        self._cycles.append(self.cycle)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = AwakeTimer(STALL_TIMEOUT_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_stall()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._cancel_stall()
        super().connection_lost(exc)
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
