"""HTTP request bodies with limits on size and time, and cancellation on disconnect."""

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from handler.engine.awake_clock import AwakeTimeout
from handler.errors import ClientDisconnected, InputTooLarge, QueueFull, RequestTimedOut
from handler.request.body import MAX_BODY_BYTES
from handler.serve.http.encoding import as_utf8, decompressed
from handler.serve.memory import MemoryTrimmer

BODY_TIMEOUT_SECONDS = 60.0  # for the whole body
MAX_BODIES_BYTES = 2_000_000_000  # for all open requests together
OFF_LOOP_BYTES = 100_000  # decoding a larger body takes a millisecond and more

Result = TypeVar("Result")


class BodyMemory:
    """The memory of all request bodies, its limit, and the thread that decodes large ones.

    One thread: its memory is one arena, and large bodies wait for each other.
    """

    def __init__(self) -> None:
        self.taken_bytes = 0
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        self._trimmer = MemoryTrimmer(self.thread)

    def take(self, size: int) -> None:
        """Reserve memory; raises QueueFull if too little is left."""
        if self.taken_bytes + size > MAX_BODIES_BYTES:
            raise QueueFull("The worker has too many large requests: try again soon.")
        self.taken_bytes += size

    def give_back(self, size: int) -> None:
        self.taken_bytes -= size
        self._trimmer.released(size)


class RequestBody:
    """The body of one request, and its memory until `close`."""

    def __init__(self, request: Request, memory: BodyMemory) -> None:
        length = request.headers.get("content-length", "0")
        self._announced_bytes = int(length) if length.isdigit() else 0
        self._request = request
        self._memory = memory
        self._taken_bytes = 0
        self.is_unread = self._announced_bytes > 0 or "transfer-encoding" in request.headers

    async def read(self) -> bytes:
        """Return the whole body, decompressed; text is UTF-8 without a byte-order mark.

        Raises:
            InputTooLarge: the body, or its content length, is over MAX_BODY_BYTES.
            UnsupportedBody: the content encoding or the charset is not supported.
            InvalidInput: the body does not match its content encoding or charset.
            QueueFull: the bodies of other requests take all the memory.
            RequestTimedOut: the body did not arrive in time.
            ClientDisconnected: the client has disconnected.
        """
        _check_size(self._announced_bytes)
        chunks: list[bytes] = []
        try:
            async with AwakeTimeout(BODY_TIMEOUT_SECONDS):
                async for chunk in self._request.stream():
                    self._memory.take(len(chunk))
                    self._taken_bytes += len(chunk)
                    _check_size(self._taken_bytes)
                    chunks.append(chunk)
        except TimeoutError as error:
            raise RequestTimedOut(
                f"The request body did not arrive in {BODY_TIMEOUT_SECONDS:g} seconds."
            ) from error
        except ClientDisconnect as error:
            raise ClientDisconnected from error
        self.is_unread = False
        body = b"".join(chunks)
        chunks.clear()
        body = await self.off_loop(len(body), self._decoded, body)
        _check_size(len(body))
        if (growth := len(body) - self._taken_bytes) > 0:
            self._memory.take(growth)
            self._taken_bytes += growth
        return body

    def _decoded(self, body: bytes) -> bytes:
        headers = self._request.headers
        body = decompressed(body, headers.get("content-encoding", ""), MAX_BODY_BYTES)
        content_type = headers.get("content-type", "")
        return (
            body if content_type.lower().startswith("multipart/") else as_utf8(body, content_type)
        )

    async def off_loop(
        self, size: int, function: Callable[..., Result], *args: Any, **named: Any
    ) -> Result:
        """Call a function that reads `size` bytes, on a thread if they are many."""
        call = functools.partial(function, *args, **named)
        if size < OFF_LOOP_BYTES:
            return call()
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._memory.thread, context.run, call)

    def close(self) -> None:
        """Release the memory."""
        self._memory.give_back(self._taken_bytes)
        self._taken_bytes = 0

    def keep_until(self, task: asyncio.Task[None]) -> None:
        """Keep the memory until the end of a task, instead of the end of the request."""
        size, self._taken_bytes = self._taken_bytes, 0
        task.add_done_callback(lambda _: self._memory.give_back(size))


@contextlib.contextmanager
def cancelled_on_disconnect(receive: Receive) -> Iterator[None]:
    """Cancel the block when the client disconnects, and raise ClientDisconnected.

    Read the request's body first.
    """
    task = asyncio.current_task()
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        if task is not None:
            task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        raise ClientDisconnected from None
    finally:
        watcher.cancel()


def _check_size(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise InputTooLarge(f"The body has {size} bytes; the limit is {MAX_BODY_BYTES}.", "body")
