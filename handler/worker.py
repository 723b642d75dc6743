"""The generator that every front door calls: one job in, its output as it comes.

A job's output is one dict (a plain answer), one text (metrics), or a stream of texts or dicts. A
failure of any kind is a last yield `{"error": "<JSON string>"}`, which is what the SDK makes a
FAILED job of; what was yielded before stays delivered.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from handler.engine.asgi import Exchange
from handler.engine.host import EngineHost
from handler.errors import (
    EngineRefused,
    EngineUnavailable,
    RequestTimedOut,
    UnknownRoute,
    render,
)
from handler.job import Job, JobReader
from handler.logs import job_id
from handler.merge import decode, merge
from handler.stream import EventCutter, chunks_of, error_in

log = logging.getLogger(__name__)

EARLY_STOP_SECONDS = 5.0  # from a stop signal to the SDK's start of that job
STOPPED = 499  # in the log only: the job was cancelled, or nobody reads on

Output = str | dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Expected:
    """A job, understood, and its exchange with the engine, which may have begun."""

    job: Job
    exchange: Exchange


class Worker:
    """Answers jobs with one engine.

    Args:
        host: the running engine.
        reader: understands jobs' inputs.
        timeout_seconds: how long one job may take, None for no bound.

    Attributes:
        tasks: the SDK's tasks of the jobs that are not over, their last POST included.
        on_end: called at the end of each.
    """

    def __init__(self, host: EngineHost, reader: JobReader, timeout_seconds: float | None) -> None:
        self._host = host
        self._reader = reader
        self._timeout_seconds = timeout_seconds
        self.tasks: set[asyncio.Task[Any]] = set()
        self.on_end: Callable[[], object] = lambda: None
        self._running: set[str] = set()
        self._expected: dict[str, Expected] = {}
        self._stopped_early: dict[str, float] = {}

    def expect(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """Send the requests of jobs whose `handle` is going to be called.

        The SDK calls that up to a tenth of a second after it has taken a job.
        """
        for job in jobs:
            with contextlib.suppress(Exception):  # which `handle` meets again, and answers
                name = str(job.get("id", ""))
                if name not in self._expected:
                    self._expected[name] = self._open(job)
                    self._expected[name].exchange.begin()

    async def handle(self, job: Mapping[str, Any]) -> AsyncIterator[Output]:
        """Answer one job; the SDK calls this once a job, on its own loop."""
        name = str(job.get("id", ""))
        job_id.set(name)
        await self._begin(name)
        started = time.monotonic()
        status, yields, route = STOPPED, 0, "?"
        try:
            expected = self._expected.pop(name, None) or self._open(job)
            route = expected.job.request.path
            async for output in self._answer(expected.job, expected.exchange):
                yields += 1
                yield output
            status = 200
        except Exception as error:
            failure = render(error)
            status = json.loads(failure)["error"]["code"]
            # By now the engine's request is over: the SDK does not close this generator at once.
            yield {"error": failure}
        finally:
            self._running.discard(name)
            seconds = time.monotonic() - started
            log.info("%s %d in %.2f s, %d yields", route, status, seconds, yields)

    def _open(self, job: Mapping[str, Any]) -> "Expected":
        understood = self._reader.read(job)
        return Expected(understood, self._host.open(understood.request))

    async def _answer(self, job: Job, opened: Exchange) -> AsyncIterator[Output]:
        """Ask the engine, and hand on what it answers.

        Raises:
            RequestError: the engine's refusal, its death, or the timeout.
        """
        clock = _Clock(self._timeout_seconds)
        async with contextlib.AsyncExitStack() as stack:
            exchange = await clock.bound(stack.enter_async_context(opened))
            stack.enter_context(_until_task_ends(exchange.close))
            content_type = exchange.headers.get("content-type", "")
            if exchange.status < 400 and content_type.startswith("text/event-stream"):
                async for output in self._stream(job, exchange, clock):
                    yield output
            else:
                yield await self._plain(job, exchange, clock)

    async def _stream(self, job: Job, exchange: Exchange, clock: "_Clock") -> AsyncIterator[Output]:
        cutter = EventCutter()
        ended = False
        pacer = self._host.pacer
        pacer.begin()
        with _until_task_ends(pacer.end):
            while not ended:
                data = await clock.bound(exchange.read())
                ended = not data
                events = cutter.feed(data) if data else cutter.end()
                failure = next((found for event in events if (found := error_in(event))), None)
                for output in _native(events) if job.native else chunks_of(events):
                    started = time.monotonic()
                    yield output
                    pacer.posted(time.monotonic() - started)
                if failure is not None:
                    raise self._refusal(_code_in(failure), failure)

    async def _plain(self, job: Job, exchange: Exchange, clock: "_Clock") -> Output:
        parts = []
        while data := await clock.bound(exchange.read()):
            parts.append(data)
        body = b"".join(parts)
        text = body.decode("utf-8", "replace")
        payload: Any = text
        if exchange.headers.get("content-type", "").startswith("application/json"):
            payload = orjson.loads(text)
        if exchange.status == 404 and payload == {"detail": "Not Found"}:
            raise UnknownRoute(f"This model does not serve {job.request.path}.", "route")
        if exchange.status >= 400:
            raise self._refusal(exchange.status, payload)
        if isinstance(payload, dict) and payload.get("error"):
            raise self._refusal(_code_in(payload), payload)
        return payload if text else {"status": "ok"}

    def _refusal(self, status: int, payload: Any) -> EngineRefused | EngineUnavailable:
        running = self._host.running
        if status >= 500 and (running is None or not running.alive()):
            return EngineUnavailable("The engine died; the worker is being replaced.")
        if status >= 500:
            log.error("the engine answered %d: %s", status, payload)
        return EngineRefused(status, payload)

    @property
    def busy(self) -> bool:
        """Whether a job is not over, or has been taken and is still to begin."""
        return bool(self.tasks or self._expected)

    def stop_early(self, names: list[str]) -> None:
        """Remember jobs that are to be stopped and have not begun: they end when they do."""
        now = time.monotonic()
        kept = {name: end for name, end in self._stopped_early.items() if end > now}
        new = {name: now + EARLY_STOP_SECONDS for name in names if name not in self._running}
        self._stopped_early = kept | new
        for name in new:
            if expected := self._expected.pop(name, None):
                expected.exchange.close()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        self.on_end()

    async def _begin(self, name: str) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        if self._stopped_early.pop(name, 0.0) > time.monotonic():
            log.info("stopped before it began")
            task.cancel()
            await asyncio.sleep(0)  # where the cancellation comes out, as for a running job
        self._running.add(name)


class _Clock:
    """Bounds every wait for the engine by one deadline, none of the waits for the caller."""

    def __init__(self, timeout_seconds: float | None) -> None:
        self._timeout_seconds = timeout_seconds
        now = asyncio.get_running_loop().time()
        self._deadline = None if timeout_seconds is None else now + timeout_seconds

    async def bound(self, awaitable: Awaitable[T]) -> T:
        """Await within what is left of the time.

        Raises:
            RequestTimedOut: nothing is left.
        """
        if self._deadline is None:
            return await awaitable
        try:
            async with asyncio.timeout_at(self._deadline):
                return await awaitable
        except TimeoutError as error:
            raise RequestTimedOut(
                f"The job took longer than REQUEST_TIMEOUT={self._timeout_seconds:g} seconds."
            ) from error


@contextlib.contextmanager
def _until_task_ends(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` on the way out, or when the SDK's job task ends, for whatever reason that does.

    A cancelled task leaves the generator suspended at a yield until it is collected; the task's
    own callback does not wait for that.
    """
    ended = False

    def once(_: object = None) -> None:
        nonlocal ended
        if not ended:
            ended = True
            end()

    task = asyncio.current_task()
    if task is not None:
        task.add_done_callback(once)
    try:
        yield
    finally:
        if task is not None:
            task.remove_done_callback(once)
        once()


def _native(events: list[bytes]) -> Iterator[Output]:
    """Turn events into merged chunk objects; an error event becomes the job's error instead."""
    chunks = [chunk for event in events if (chunk := decode(event)) is not None]
    yield from merge([chunk for chunk in chunks if not chunk.get("error")])


def _code_in(failure: Any) -> int:
    """Return the HTTP status that an error event names, or 500."""
    error = failure.get("error") if isinstance(failure, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500
