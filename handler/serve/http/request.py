"""One HTTP request and its answer, in ASGI's terms. It does not know what is asked."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from handler.engine.interface import Receive, Scope, Send
from handler.errors import (
    ClientDisconnected,
    InputTooLarge,
    QueueFull,
    RequestError,
    RequestTimedOut,
    render,
)
from handler.request.parse import MAX_BODY_BYTES

BODY_SECONDS = 60.0  # for all of a request's body
MOST_BODIES_BYTES = 2_000_000_000  # of all requests together
JSON = "application/json"
NO_HEADERS: Mapping[str, str] = {}


class BodyMemory:
    """Memory for the bodies of all requests that are being answered."""

    def __init__(self) -> None:
        self.taken_bytes = 0

    def take(self, size: int) -> None:
        """Take some of it.

        Raises:
            QueueFull: there is no more.
        """
        if self.taken_bytes + size > MOST_BODIES_BYTES:
            raise QueueFull("Too many large requests are being answered: try again soon.")
        self.taken_bytes += size

    def give(self, size: int) -> None:
        """Give some back."""
        self.taken_bytes -= size


class HttpCall:
    """One request, which is to be closed.

    Args:
        scope, receive, send: ASGI's.
        room: for its body.

    Attributes:
        method: upper case.
        path: decoded, without a query.
        query: the query string without `?`.
        headers: by their names in lower case.
        port: of this machine, that it came to.
        started: whether the answer's head is sent.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, room: BodyMemory) -> None:
        self.method = str(scope["method"])
        self.path = str(scope["path"])
        self.query = bytes(scope["query_string"]).decode("latin-1")
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        length = self.headers.get(b"content-length", b"0")
        self.port = (scope.get("server") or ("", None))[1]
        self.started = False
        self._has_body = (
            length.isdigit() and int(length) > 0
        ) or b"transfer-encoding" in self.headers
        self._room = room
        self._body_bytes = 0
        self._receive = receive
        self._send = send

    @property
    def content_type(self) -> str:
        """What the request says its body is."""
        return self.headers.get(b"content-type", b"").decode("latin-1")

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            InputTooLarge: it is, or says that it is going to be.
            QueueFull: there is no room for it now.
            RequestTimedOut: it does not come to its end.
            ClientDisconnected: the client has left.
        """
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            raise _too_large(int(length))
        parts: list[bytes] = []
        more = True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnected
                    parts.append(message.get("body", b""))
                    self._room.take(len(parts[-1]))
                    self._body_bytes += len(parts[-1])
                    more = message.get("more_body", False)
                    if self._body_bytes > MAX_BODY_BYTES:
                        raise _too_large(self._body_bytes)
        except TimeoutError as error:
            raise RequestTimedOut(
                f"The body did not come to its end in {BODY_SECONDS:g} seconds."
            ) from error
        self._has_body = False
        return b"".join(parts)

    def close(self) -> None:
        """Give back what its body took."""
        self._room.give(self._body_bytes)
        self._body_bytes = 0

    def keep_body_until(self, task: asyncio.Task[None]) -> None:
        """Keep what its body took until a task is over, which outlives the call."""
        size, self._body_bytes = self._body_bytes, 0
        task.add_done_callback(lambda _: self._room.give(size))

    @contextlib.contextmanager
    def until_gone(self) -> Iterator[None]:
        """Cancel what runs inside when the client leaves: it comes out as `ClientDisconnected`.

        Only after the body has been read.
        """
        task = asyncio.current_task()
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            if task is not None:
                task.cancel()

        watching = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if not gone:
                raise
            raise ClientDisconnected from None
        finally:
            watching.cancel()

    async def start(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        """Send the head of an answer whose body is to come in pieces."""
        named = {"content-type": content_type, **headers} if content_type else headers
        encoded = [(name.encode(), text.encode("latin-1")) for name, text in named.items()]
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, more: bool = True) -> None:
        """Send a piece of the body, when there is room for it."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "",
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        """Send a whole answer."""
        named = dict(headers)
        if status not in (204, 304):
            named["content-length"] = str(len(body))
        await self.start(status, content_type, named)
        await self.write(b"" if self.method == "HEAD" else body, more=False)

    async def answer_json(self, value: Any, status: int = 200) -> None:
        """Send a value as JSON."""
        await self.answer(status, orjson.dumps(value), JSON)

    async def answer_error(self, error: BaseException, for_anthropic: bool = False) -> None:
        """Send an OpenAI error object, or Anthropic's."""
        status = error.status if isinstance(error, RequestError) else RequestError.status
        headers = dict(error.headers) if isinstance(error, RequestError) else {}
        if self._has_body:  # it is not read, and no next request
            headers["connection"] = "close"
        await self.answer(status, render(error, for_anthropic).encode(), JSON, headers)


def _too_large(size: int) -> InputTooLarge:
    return InputTooLarge(f"The body has {size} bytes; {MAX_BODY_BYTES} are the most.", "body")
