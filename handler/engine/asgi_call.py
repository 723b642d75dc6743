"""One HTTP exchange with an ASGI app that runs on another event loop, without a socket.

The engine's app runs on the engine's loop, the Runpod SDK's jobs on theirs. An `AsgiCall` is the
only thing that crosses between the two: the response head and the body bytes go over as they are
produced, nothing is copied per token but the bytes, and the reader's loop is only woken when the
reader waits. While the reader is away the bytes add up; beyond `HIGH_WATER_BYTES` the app's
`send` waits, and the engine merges what it produces meanwhile.

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
PATIENCE = 100  # messages of an aborted app after which it must let the loop run


class AsgiCall:
    """Call `app` on `loop` and read its response from another loop.

    Use as `async with AsgiCall(...) as exchange:`; leaving it aborts what still runs. The request
    may be sent before, by `begin`.

    An abort is told the way a server tells it, by `http.disconnect`: vLLM frees the request's KV
    blocks on that, streamed or not. An app that has not ended `grace_seconds` later is cancelled,
    which frees them with SGLang, that looks for a disconnect every few seconds only.
    """

    def __init__(
        self,
        app: AsgiApp,
        loop: asyncio.AbstractEventLoop,
        request: EngineRequest,
        grace_seconds: float = ABORT_GRACE_SECONDS,
        closed: Callable[["AsgiCall"], None] | None = None,
    ) -> None:
        self._app = app
        self._grace_seconds = grace_seconds
        self._closed = closed
        self._begun = False
        self._loop = loop
        self._request = request
        self._lock = threading.Lock()
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._finished = False
        self._failure: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._drained = asyncio.Event()  # this and what follows: on the engine's loop only
        self._disconnected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._ignored = 0
        self._body_taken = False
        self._complete = False  # all of the body is here; the app may still tidy up for seconds
        self._waking = False
        self.status = 0
        self.headers: Mapping[str, str] = {}

    # ---- the reader's side: any loop ----

    def begin(self) -> None:
        """Send the request; the response gathers until it is read.

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
        """Send the request unless it is sent; return when the response's head is there.

        Raises:
            EngineUnavailable: the engine's loop is gone, or the app ended without a response.
        """
        try:
            self.begin()
            await self._until(lambda: bool(self.status))
            if not self.status:
                raise self._failure or EngineUnavailable("The engine gave no answer.")
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
        """Abort the request if it still runs. From any thread, any number of times."""
        if self._closed is not None:
            self._closed(self)
        if not (self._finished or self._complete):
            self._on_engine_loop(self._abort)

    def fail(self, failure: Exception) -> None:
        """End the exchange with `failure` for its reader, and abort it. From any thread."""
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
            # A reader whose loop is closed has gone; its exchange is closed by its job's end.
            with contextlib.suppress(RuntimeError):
                reader.get_loop().call_soon_threadsafe(_resolve, reader)

    def _on_engine_loop(self, callback: Callable[[], None]) -> None:
        # A closed loop has no task left that could be paused or aborted.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    # ---- the app's side: the engine's loop ----

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
            if self._request.media is not None:
                body = await self._request.media.brought(self._request.body)
                self._request = replace(self._request, body=body, media=None)
            await self._app(self._scope(), self._receive, self._send)
            self._finish(None if self._complete else EngineUnavailable("The answer broke off."))
        except asyncio.CancelledError:
            self._finish(EngineUnavailable("The engine was stopped in the middle of the answer."))
        except Exception as error:
            # Starlette raises again what it has answered with a whole 500: then the answer stands.
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
            # Nobody reads. Going on without a pause has the cancellation reach the app where it
            # waits for the engine, so that its generator ends in order, and not in here.
            self._ignored += 1
            if self._ignored % PATIENCE == 0:
                await asyncio.sleep(0)
            return
        body = message.get("body", b"")
        with self._lock:
            self._complete = not message.get("more_body", False)
            if body:
                self._chunks.append(body)
                self._buffered_bytes += len(body)
            if not self._waking:
                # After this step of the app: what it sends together is read together.
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
