"""One in-process call of an ASGI app that runs on another event loop.

The engine's app runs on the engine's loop, jobs on the SDK's or the HTTP server's. An `AsgiCall` is
the only thing that crosses between the two: the response head and the body bytes go over as they
are produced, and the reader's loop is woken only when the reader waits. While the reader is busy
the bytes are buffered. Beyond `HIGH_WATER_BYTES` the app's `send` waits, and the engine merges the
tokens that it generates meanwhile.

httpx's ASGI transport cannot be used here: it buffers the whole response.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from handler.engine.interface import AsgiApp, EngineRequest, Message, Scope
from handler.errors import EngineUnavailable

HIGH_WATER_BYTES = 16_384
ABORT_GRACE_SECONDS = 0.5
MAX_IGNORED_MESSAGES = 100  # from an aborted app, before its `send` yields to the loop


class AsgiCall:
    """A call of `app` on `loop`, read from another loop.

    Use as `async with call:`; leaving it aborts what still runs. `begin` may send the request
    before that.

    An abort sends `http.disconnect`, as a server does: vLLM then frees the request's KV blocks. An
    app that still runs after `grace_seconds` is cancelled. SGLang needs that, because it checks for
    a disconnect only every few seconds.

    Args:
        on_close: called when the call is closed.

    Attributes:
        status, headers: of the response, once entered; header names are in lower case.
    """

    def __init__(
        self,
        app: AsgiApp,
        loop: asyncio.AbstractEventLoop,
        request: EngineRequest,
        grace_seconds: float = ABORT_GRACE_SECONDS,
        on_close: Callable[["AsgiCall"], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._grace_seconds = grace_seconds
        self._on_close = on_close
        self._begun = False
        self._loop = loop
        self._request = request
        self._lock = threading.Lock()
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._finished = False
        self._failure: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        # From here on: used on the engine's loop only.
        self._drained = asyncio.Event()
        self._disconnected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._ignored_messages = 0
        self._body_taken = False
        self._complete = False  # the whole body has arrived; the app may clean up for seconds
        self._waking = False
        self.status = 0
        self.headers: Mapping[str, str] = {}

    # ---- the reader's side, on any loop ----

    def begin(self) -> None:
        """Send the request; the response is buffered until it is read.

        Raises:
            EngineUnavailable: the engine's loop is gone.
        """
        if self._begun:
            return
        try:
            self._loop.call_soon_threadsafe(self._start)
        except RuntimeError as error:
            raise EngineUnavailable("The engine is not running.") from error
        self._begun = True

    async def __aenter__(self) -> "AsgiCall":
        """Send the request unless `begin` did; return when the response's head has arrived.

        Raises:
            EngineUnavailable: the engine's loop is gone, or the app ended without a response.
        """
        try:
            self.begin()
            await self._until(lambda: bool(self.status))
            if not self.status:
                raise self._failure or EngineUnavailable("The engine did not answer.")
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def read(self) -> bytes:
        """Return all body bytes that have arrived, waiting for some; `b""` at the end.

        Raises:
            EngineUnavailable: the engine died or was stopped before the end.
        """
        await self._until(lambda: bool(self._chunks))
        with self._lock:
            data = b"".join(self._chunks)
            self._chunks.clear()
            paused = self._buffered_bytes >= HIGH_WATER_BYTES
            self._buffered_bytes = 0
        if paused:
            self._on_engine_loop(self._drained.set)
        if not data and self._failure:
            raise self._failure
        return data

    def close(self) -> None:
        """Abort the request if it still runs. Thread-safe, may be called twice."""
        self._on_close(self)
        if not (self._finished or self._complete):
            self._on_engine_loop(self._abort)

    def fail(self, failure: Exception) -> None:
        """Abort the request and raise `failure` in its reader. Thread-safe."""
        self._finish(failure)
        self._on_engine_loop(self._abort)

    async def _until(self, arrived: Callable[[], bool]) -> None:
        """Wait until `arrived()` or until nothing more will come."""
        while True:
            with self._lock:
                if arrived() or self._finished or self._complete:
                    return
                reader = self._reader = asyncio.get_running_loop().create_future()
            await reader

    def _wake_reader(self) -> None:
        """Call with the lock held."""
        reader, self._reader = self._reader, None
        if reader is not None:
            # The loop of a reader that has gone may be closed.
            with contextlib.suppress(RuntimeError):
                reader.get_loop().call_soon_threadsafe(_resolve, reader)

    def _on_engine_loop(self, callback: Callable[[], None]) -> None:
        # A closed loop has no task left to abort.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    # ---- the app's side, on the engine's loop ----

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run())

    def _abort(self) -> None:
        self._closing = True
        self._drained.set()
        self._disconnected.set()  # after the line above: a paused app first leaves its `send`
        if self._task is not None and not self._task.done():
            self._loop.call_later(self._grace_seconds, self._task.cancel)

    async def _run(self) -> None:
        try:
            if self._request.prepare_body is not None:
                body = await self._request.prepare_body(self._request.body)
                self._request = replace(self._request, body=body)
            await self._app(self._scope(), self._receive, self._send)
            self._finish(
                None if self._complete else EngineUnavailable("The engine's response ended early.")
            )
        except asyncio.CancelledError:
            self._finish(EngineUnavailable("The engine was stopped during the answer."))
        except Exception as error:
            # Starlette raises an error again after it has answered it with a complete 500.
            self._finish(None if self._complete else error)

    def _finish(self, failure: Exception | None) -> None:
        with self._lock:
            if not self._finished:
                self._finished = True
                self._failure = failure
                self._wake_reader()

    async def _receive(self) -> Message:
        if not self._body_taken:
            self._body_taken = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message.get("headers", ())
            }
            with self._lock:
                self.headers = headers
                self.status = message["status"]
                self._wake_reader()
            return
        if self._closing:
            # No reader is left. `send` does not wait here: the cancellation then arrives while the
            # app waits for the engine, and its generator is closed properly.
            self._ignored_messages += 1
            if self._ignored_messages % MAX_IGNORED_MESSAGES == 0:
                await asyncio.sleep(0)
            return
        body = message.get("body", b"")
        with self._lock:
            self._complete = not message.get("more_body", False)
            if body:
                self._chunks.append(body)
                self._buffered_bytes += len(body)
            if not self._waking:
                # Later in this iteration of the loop: chunks sent together are read together.
                self._waking = True
                self._loop.call_soon(self._wake)
            full = self._buffered_bytes >= HIGH_WATER_BYTES
            if full:
                self._drained.clear()
        if full:
            await self._drained.wait()

    def _wake(self) -> None:
        with self._lock:
            self._waking = False
            self._wake_reader()

    def _scope(self) -> Scope:
        request = self._request
        headers = [(b"host", b"worker"), (b"content-type", request.content_type.encode("latin-1"))]
        if request.body:
            headers.append((b"content-length", str(len(request.body)).encode()))
        if request.request_id:
            headers.append((b"x-request-id", request.request_id.encode("latin-1", "replace")))
        return {
            "type": "http",
            # 2.3, not 2.4: from 2.4 on Starlette expects an OSError from `send` at a disconnect,
            # and no longer listens for `http.disconnect` while it streams.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "raw_path": request.path.encode(),
            "query_string": request.query.encode(),
            "root_path": "",
            "headers": headers,
            "client": None,
            "server": ("worker", 80),
        }


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
