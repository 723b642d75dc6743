"""The callers of the soak of the HTTP front end, and what an answer must be.

A call with an answer asks for a text of its own, which a constraint makes the engine write: an
answer that is another caller's, has a piece twice, or lacks one is seen.
"""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.soak.http_schedule import KINDS, Call, hostile_bodies
from tests.soak.windows import Window

TIMEOUT_SECONDS = 120.0
ANSWER_MARK = "soakanswer"
TEXTS = 96  # constraints that the engine has to compile
LONG_TOKENS = 150
TOOL = {
    "type": "function",
    "function": {
        "name": "find_city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
# Windows of time in which an answer may be another one than in peace, and what it may say.
EXCUSES = {
    "start": ("starting",),
    "drain": ("being stopped", "shutting down", "stopped", "stopping"),
    "core": ("The engine died", "is being replaced"),
}
LOST = ("core", "away")  # windows in which a connection may be lost or refused


@dataclass
class Result:
    """One exchange.

    Attributes:
        problem: why the answer is not the expected one; "" if it is.
        status: of the answer; 0 if the connection was refused or lost.
        message: of an error object.
    """

    kind: str
    number: int
    began: float
    ended: float = 0.0
    status: int = 0
    message: str = ""
    problem: str = ""

    def fail(self, problem: str) -> None:
        self.problem = self.problem or problem[:300]


def verdict(result: Result, windows: Sequence[Window]) -> tuple[str, str]:
    """Return an outcome's class and, if no fault on record explains it, a sentence."""
    if not result.problem:
        return "as expected", ""
    for window in windows:
        is_in_it = window.overlaps(result.began, result.ended)
        if is_in_it and result.began >= window.excuses_from:
            if result.status == 0 and window.kind in LOST:
                return f"connection lost ({window.kind})", ""
            said = any(words in result.message for words in EXCUSES.get(window.kind, ()))
            if result.status in (200, 503) and said:
                return f"refused ({window.kind})", ""
    return "violation", (
        f"{result.kind} {result.number} at {result.began:.1f} to {result.ended:.1f} s: "
        f"status {result.status}, {result.problem} {result.message}"
    )


def stream_problem(body: str, expected: str | None, finish: str, is_chat: bool) -> tuple[str, str]:
    """Check a stream's events; return what is wrong, "" if nothing, and the message of an error."""
    if not body.endswith("\n\n"):
        return "the stream ends within an event", ""
    events = body[:-2].split("\n\n")
    if not all(event.startswith("data: ") for event in events):
        return "an event is not data", ""
    *data, last = [event.removeprefix("data: ") for event in events]
    if last != "[DONE]":
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return "the stream ends with an error", json.loads(last)["error"]["message"]
        return "the stream ends without [DONE]", ""
    chunks = [json.loads(each) for each in data]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    pieces = [(each["delta"].get("content") if is_chat else each["text"]) or "" for each in choices]
    text = "".join(pieces)
    if expected is not None and text != expected:
        return f"the text is {text!r} instead of {expected!r}", ""
    reasons = [each["finish_reason"] for each in choices if each["finish_reason"]]
    if reasons != [finish]:
        return f"finish reasons {reasons}", ""
    if len({chunk["id"] for chunk in chunks}) != 1:
        return "chunks of several answers", ""
    return "", ""


class Clients:
    """The callers of one worker address; each method is a kind of call.

    Args:
        clock: seconds since the soak's beginning.
        constrained: returns the engine's field that constrains the output to one text.
        only_text: the answer to everything, of an engine without constraints.

    Attributes:
        hurry: ends the pauses of all calls, before a quiet point.
    """

    def __init__(
        self,
        port: int,
        key: str,
        marker: str,
        clock: Callable[[], float],
        constrained: Callable[[str], dict[str, Any]],
        only_text: str = "",
    ) -> None:
        self.port, self.marker, self._clock, self._constrained = port, marker, clock, constrained
        self._headers = {"Authorization": f"Bearer {key}"}
        self._head = f"Host: soak\r\nAuthorization: Bearer {key}\r\n"
        self._url = f"http://127.0.0.1:{port}"
        self._only_text = only_text
        self.hurry = asyncio.Event()
        self.results: list[Result] = []
        self.open = self.most_open = 0

    async def run(self, call: Call) -> None:
        """Make a call and record its results."""
        method: Callable[[Call], Awaitable[None]] = getattr(self, f"_{call.kind}")
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await method(call)
        except Exception as error:  # of an answer that cannot be read
            now = self._clock()
            problem = f"{type(error).__name__}: {error}"
            self.results.append(Result(call.kind, call.number, now, now, -1, problem=problem))
        finally:
            self.open -= 1

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.hurry.wait()

    def session(self, **more: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self._url,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0, **more),
        )

    # ---- calls that are answered ----

    def _text_body(self, call: Call, stream: bool) -> tuple[str, dict[str, Any], str]:
        """Return the path, the body and the text that must come back."""
        text = self._only_text or answer_text(call.number)
        prompt = f"{self.marker} {call.number}: write."
        body = {"max_tokens": 64, "temperature": 0, "stream": stream}
        if not self._only_text:
            body |= self._constrained(text)
        if call.number % 2:
            return "/v1/completions", {"prompt": prompt, **body}, text
        messages = [{"role": "user", "content": prompt}]
        return "/v1/chat/completions", {"messages": messages, **body}, text

    async def _exchange(
        self,
        call: Call,
        session: aiohttp.ClientSession,
        path: str,
        content: Any,
        status: int,
        check: Callable[[Result, str], None] = lambda result, body: None,
    ) -> None:
        """Send one request, and check the status, then the body."""
        result = Result(call.kind, call.number, self._clock())
        self.results.append(result)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        try:
            async with session.post(path, data=data, headers=headers) as response:
                body = await response.text()
                result.status = response.status
            if response.status >= 400:
                result.message = str(json.loads(body)["error"]["message"])
            if response.status != status:
                result.fail(f"instead of {status}")
            else:
                check(result, body)
        except (aiohttp.ClientError, ConnectionError) as error:
            result.status = 0
            result.fail(f"{type(error).__name__}: {error}")
        except (TimeoutError, ValueError, KeyError, TypeError, IndexError) as error:
            result.fail(f"{type(error).__name__}: {error}")
        finally:
            result.ended = self._clock()

    async def _ask(self, call: Call, session: aiohttp.ClientSession, stream: bool) -> None:
        path, body, text = self._text_body(call, stream)
        is_chat = "messages" in body

        def check(result: Result, body: str) -> None:
            if stream:
                problem, result.message = stream_problem(body, text, "stop", is_chat)
                result.fail(problem)
                return
            [choice] = json.loads(body)["choices"]
            answer = choice["message"]["content"] if is_chat else choice["text"]
            if (answer, choice["finish_reason"]) != (text, "stop"):
                result.fail(f"the answer is {answer!r} instead of {text!r}")

        await self._exchange(call, session, path, body, 200, check)

    async def _stream(self, call: Call) -> None:
        async with self.session(force_close=True) as session:
            await self._ask(call, session, stream=True)

    async def _plain(self, call: Call) -> None:
        async with self.session(force_close=True) as session:
            await self._ask(call, session, stream=False)

    async def _keep_alive(self, call: Call) -> None:
        async with self.session() as session:
            await self._ask(call, session, stream=call.number % 3 == 0)
            await self._pause(call.share * KINDS[call.kind][1])
            await self._ask(call, session, stream=call.number % 3 == 1)

    async def _tools(self, call: Call) -> None:
        if self._only_text:
            await self._plain(call)
            return

        def check(result: Result, body: str) -> None:
            [one] = json.loads(body)["choices"][0]["message"]["tool_calls"]
            made = (one["function"]["name"], json.loads(one["function"]["arguments"]))
            if made != ("find_city", {"city": "Paris"}):
                result.fail(f"the tool call is {made}")

        body = {
            "messages": [{"role": "user", "content": f"{self.marker}: which city?"}],
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "find_city"}},
            "max_tokens": 100,
            "temperature": 0,
        }
        async with self.session(force_close=True) as session:
            await self._exchange(call, session, "/v1/chat/completions", body, 200, check)

    # ---- calls that are refused ----

    async def _hostile(self, call: Call) -> None:
        bodies = hostile_bodies(self.marker)
        content, status = bodies[call.number % len(bodies)]
        async with self.session(force_close=True) as session:
            await self._exchange(call, session, "/v1/chat/completions", content, status)

    async def _oversized(self, call: Call) -> None:
        """Announce more than may be sent, or send a large body of lists."""
        if call.number % 2:
            head = "POST /v1/completions HTTP/1.1\r\nContent-Length: 40000000\r\n" + self._head
            await self._raw(call, (head + "\r\n" + self.marker).encode(), [413])
            return
        async with self.session(force_close=True) as session:
            await self._exchange(call, session, "/v1/completions", b"[" * 3_000_000, 413)

    async def _wrong_key(self, call: Call) -> None:
        async with self.session(force_close=True) as session:
            session.headers["Authorization"] = f"Bearer {self.marker}"
            await self._exchange(call, session, "/v1/completions", {"prompt": "Hi"}, 401)

    async def _rubbish(self, call: Call) -> None:
        """A request, and rubbish behind it; or rubbish alone."""
        rubbish = bytes(range(1, 200)) * 20 + self.marker.encode() + b"\r\n\r\n"
        first = f"GET /v1/models HTTP/1.1\r\n{self._head}\r\n".encode()
        if call.number % 2:
            await self._raw(call, rubbish, [400])
        else:  # the rubbish is seen, and the connection closed, before the request is answered
            await self._raw(call, first + rubbish, [400])

    async def _pipelined(self, call: Call) -> None:
        first = f"GET /v1/models HTTP/1.1\r\n{self._head}\r\n".encode()
        second = f"GET /v1/nothing HTTP/1.1\r\n{self._head}Connection: close\r\n\r\n".encode()
        await self._raw(call, first + second, [200, 404])

    async def _raw(self, call: Call, data: bytes, statuses: Sequence[int]) -> None:
        """Send bytes; the answers' statuses are these, and the server closes the connection."""
        result = Result(call.kind, call.number, self._clock())
        self.results.append(result)
        received = b""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(data)
                    while piece := await reader.read(65536):
                        received += piece
                finally:
                    writer.transport.abort()
        except ConnectionError as error:
            result.fail(f"{type(error).__name__}: {error}")
        except TimeoutError:
            result.fail("the connection stays open")
        marks = received.split(b"HTTP/1.1 ")[1:]
        seen = [int(each[:3]) for each in marks]
        if seen != list(statuses):
            refused = [mark for mark in marks if mark.startswith(b"503")]
            result.status = 503 if refused else 0
            result.message = b" ".join(refused)[-300:].decode("latin-1")
            result.problem = f"statuses {seen} instead of {list(statuses)} {result.problem}"
        else:
            result.problem = ""  # a reset after the last answer: the server closed unread data
        result.ended = self._clock()

    # ---- calls that hold a connection, or leave ----

    def _long(self, call: Call) -> bytes:
        content = {"prompt": f"{self.marker} {call.number}", "max_tokens": LONG_TOKENS}
        body = json.dumps(content | {"ignore_eos": True, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n"
        return (
            head + "Content-Type: application/json\r\nConnection: close\r\n\r\n"
        ).encode() + body

    async def _slow_reader(self, call: Call) -> None:
        """Read a stream with a small window, with pauses, to its end."""
        result = Result(call.kind, call.number, self._clock())
        self.results.append(result)
        received, step = b"", KINDS[call.kind][1] * call.share / 150
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=256)
                try:
                    writer.write(self._long(call))
                    while piece := await reader.read(256):
                        received += piece
                        await self._pause(step)
                finally:
                    writer.transport.abort()
        except (ConnectionError, TimeoutError) as error:
            result.fail(f"{type(error).__name__}: {error}")
        head, _, body = received.partition(b"\r\n\r\n")
        result.status = int(head[9:12] or 0)
        if result.status != 200:
            result.fail("instead of 200")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                result.message = json.loads(body)["error"]["message"]
        elif not body.endswith(b"\r\n0\r\n\r\n"):
            result.status = 0
            result.fail("the response is cut")
        else:
            problem, result.message = stream_problem(_unchunked(body), None, "length", False)
            result.fail(problem)
        result.ended = self._clock()

    async def _half_open(self, call: Call) -> None:
        whole = self._long(call)
        cut = (0, 30, whole.index(b"\r\n\r\n") + 4, len(whole) - 20)[call.number % 4]
        await self._hold(whole[:cut], call.share * KINDS[call.kind][1], to_end=True)

    async def _leaves(self, call: Call) -> None:
        """Leave at once, after a while, or after the first event."""
        seconds = (0.0, 0.05, 0.5, 2.0)[call.number % 4] * call.share
        await self._hold(self._long(call), seconds, to_end=False)

    async def _hold(self, data: bytes, seconds: float, *, to_end: bool) -> None:
        """Send bytes and leave after some seconds; no answer is due."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(data)
                reading = asyncio.create_task(_read(reader, to_end or seconds < 1))
                pause = asyncio.create_task(self._pause(seconds))
                await asyncio.wait({reading, pause}, return_when=asyncio.FIRST_COMPLETED)
                for each in (reading, pause):
                    each.cancel()
                await asyncio.gather(reading, pause, return_exceptions=True)
            finally:
                writer.transport.abort()


def constrained(engine: str, text: str) -> dict[str, Any]:
    """Return the engine's field that constrains the output to one text."""
    if engine == "vllm":
        return {"structured_outputs": {"choice": [text]}}
    return {"regex": re.escape(text)}


async def _read(reader: asyncio.StreamReader, to_end: bool) -> None:
    while await reader.read(65536):
        if not to_end:
            return


def answer_text(number: int) -> str:
    """Return the text that a call must be answered with."""
    return f"{ANSWER_MARK} number {number % TEXTS} of all, and {number % 7} of seven."


def _unchunked(body: bytes) -> str:
    """Return the content of a body in HTTP's chunked encoding."""
    content = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        content, body = content + body[:length], body[length + 2 :]
        if not length:
            break
    return content.decode()


async def timed_get(url: str, headers: dict[str, str]) -> tuple[int, str, float]:
    """Return status, text and seconds of a GET on a connection of its own; status 0 if refused."""
    began = time.monotonic()
    try:
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=30)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(url, headers=headers) as response,
        ):
            return response.status, await response.text(), time.monotonic() - began
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        return 0, "", time.monotonic() - began
