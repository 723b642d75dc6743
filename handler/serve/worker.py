"""The generator that every front door calls: one job in, its output as it comes.

A job's output is one dict (a plain answer), one text (metrics), or a stream of texts or dicts; that
of a batch comes from `batch/run.py`. A failure of any kind is a last yield
`{"error": "<JSON string>"}`, which is what the SDK makes a FAILED job of; what was yielded before
stays delivered.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from handler.engine.asgi_call import AsgiCall
from handler.engine.capacity import concurrency, lines_at_once
from handler.engine.deadline import Deadline
from handler.engine.response import code_in, refusal, value, whole_body
from handler.engine.runtime import EngineRuntime
from handler.engine.sse import EventSplitter, chunks_of, decode, error_in, merge
from handler.engine.task_scope import until_task_ends
from handler.engine.usage import is_count
from handler.errors import EngineUnavailable, render
from handler.logs import job_id
from handler.metrics.monitor import Monitor
from handler.metrics.request_log import RequestObserver, RequestRecord
from handler.request.parse import ParsedJob, RequestParser
from handler.request.routes import GET, path_of
from handler.serve.batch.line import LineRunner
from handler.serve.batch.output import RESCUE_SECONDS
from handler.serve.batch.request import BatchRequest
from handler.serve.batch.run import Batch, Counts
from handler.serve.prestart import OpenedJob, PrestartedJobs

log = logging.getLogger(__name__)

DONE = b"data: [DONE]"
LAST_SECONDS = 5.0  # after the engine's death or the drain, for errors to be delivered

Output = str | dict[str, Any] | list[Any]


class Worker:
    """Answers jobs with one engine.

    Args:
        host: the running engine.
        reader: understands jobs' inputs.
        timeout_seconds: how long one job may take, None for no bound.
        monitor: sees each job's beginning and end, and adds to the engine's metrics.
        log_content: whether prompts and answers go to the log.
        jobs_at_once: that are taken; None means what the engine can batch.

    Attributes:
        host, reader, timeout_seconds: as given.
        tasks: the SDK's tasks of the jobs that are not over, their last POST included.
        on_end: called at the end of each.
        place_for_line: what a line of a batch has to have while it is asked.
        on_progress: awaited with a batch's job and its counts, now and then and at the end.
    """

    def __init__(
        self,
        host: EngineRuntime,
        reader: RequestParser,
        timeout_seconds: float | None,
        monitor: Monitor | None = None,
        log_content: bool = False,
        jobs_at_once: int | None = None,
    ) -> None:
        self.host = host
        self.reader = reader
        self.timeout_seconds = timeout_seconds
        self._observer: RequestObserver = monitor.metrics if monitor else RequestObserver()
        self._monitor = monitor
        self._log_content = log_content
        self._jobs_at_once = jobs_at_once
        self.tasks: set[asyncio.Task[Any]] = set()
        self.on_end: Callable[[], object] = lambda: None
        self.place_for_line: Callable[[], AbstractAsyncContextManager[None]]
        self.place_for_line = contextlib.nullcontext
        self.on_progress: Callable[[Mapping[str, Any], Counts], Awaitable[None]] = _told_nobody
        self._batches: set[str] = set()
        self._running: set[str] = set()
        self._expected = PrestartedJobs()

    def expect(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """Send the requests of jobs whose `handle` is going to be called."""
        for job in jobs:
            with contextlib.suppress(Exception):  # which `handle` meets again, and answers
                if self.reader.batch(job) is None:
                    name = str(job.get("id", ""))
                    self._expected.begin(name, functools.partial(self._open, job))

    async def handle(self, job: Mapping[str, Any]) -> AsyncIterator[Output]:
        """Answer one job; the SDK calls this once a job, on its own loop."""
        name = str(job.get("id", ""))
        job_id.set(name)
        await self._begin(name)
        try:
            with self.recorded(name) as record:
                async for output in self.outputs(job, record):
                    yield output
        finally:
            self._running.discard(name)

    async def outputs(
        self, job: Mapping[str, Any], record: RequestRecord, timeout_seconds: float | None = None
    ) -> AsyncIterator[Output]:
        """Answer one job, in the task that ends with it.

        Args:
            job: with its `id` and `input`.
            record: of what happens to it.
            timeout_seconds: its own `policy.executionTimeout`, None for no bound.
        """
        try:
            async for output in self._outputs(job, record, timeout_seconds):
                record.yields += 1
                yield output
            record.status = 200
        except Exception as error:
            record.failed(error)
            # By now the engine's request is over: the SDK does not close this at once.
            yield {"error": render(error)}

    def _outputs(
        self, job: Mapping[str, Any], record: RequestRecord, timeout_seconds: float | None
    ) -> AsyncIterator[Output]:
        if (order := self.reader.batch(job)) is not None:
            record.route = "batch"
            # REQUEST_TIMEOUT is for each line.
            clock = Deadline(timeout_seconds, "policy.executionTimeout")
            return self._batch_outputs(self._batch(order, job), clock, record.id)
        record.route = path_of(job.get("input")) or record.route
        opened = self._expected.take(record.id) or self._open(job)
        record.sent(opened.job.request.path, opened.job.request.body)
        return self._answer(opened.job, opened.exchange, self._clock(timeout_seconds), record)

    async def _batch_outputs(
        self, batch: Batch, clock: Deadline, name: str
    ) -> AsyncIterator[Output]:
        self._batches.add(name)
        with until_task_ends(functools.partial(self._batches.discard, name)):
            async for output in batch.outputs(clock):
                yield output

    def _batch(self, order: BatchRequest, job: Mapping[str, Any]) -> Batch:
        if self.host.running is None:
            raise EngineUnavailable("The engine is not running; the worker is being replaced.")
        capacity = self.host.running.capacity
        jobs_at_once = self._jobs_at_once or concurrency("auto", capacity)
        at_once = lines_at_once(order.concurrency, jobs_at_once, capacity)
        asker = LineRunner(
            *(self.host, self.reader, self.recorded, self.timeout_seconds, self.place_for_line)
        )
        tell = functools.partial(self.on_progress, job)
        return Batch(order, str(job.get("id", "")), asker, at_once, tell)

    @contextlib.contextmanager
    def recorded(self, name: str) -> Iterator[RequestRecord]:
        """Have what happens to one request inside in the log and in the metrics."""
        record = RequestRecord(name, self._log_content)
        self._observer.began(record)

        def end() -> None:
            record.end()
            self._observer.ended(record)

        with until_task_ends(end):
            try:
                yield record
            except Exception as error:
                record.failed(error)
                raise

    def _open(self, job: Mapping[str, Any]) -> OpenedJob:
        understood = self.reader.read(job)
        return OpenedJob(understood, self.host.open(understood.request))

    def _clock(self, own_seconds: float | None) -> Deadline:
        general_seconds = self.timeout_seconds
        if own_seconds is None or (general_seconds is not None and general_seconds < own_seconds):
            return Deadline(general_seconds)
        return Deadline(own_seconds, "policy.executionTimeout")

    async def _answer(
        self, job: ParsedJob, opened: AsgiCall, clock: Deadline, record: RequestRecord
    ) -> AsyncIterator[Output]:
        """Ask the engine, and hand on what it answers.

        Raises:
            RequestError: the engine's refusal, its death, or the timeout.
        """
        async with contextlib.AsyncExitStack() as stack:
            exchange = await clock.bound(stack.enter_async_context(opened))
            stack.enter_context(until_task_ends(exchange.close))
            content_type = exchange.headers.get("content-type", "")
            if exchange.status < 400 and content_type.startswith("text/event-stream"):
                record.streams = True
                async for output in self._stream(job, exchange, clock, record):
                    yield output
            else:
                yield await self._plain(job, exchange, clock, record)

    async def _stream(
        self, job: ParsedJob, exchange: AsgiCall, clock: Deadline, record: RequestRecord
    ) -> AsyncIterator[Output]:
        cutter = EventSplitter()
        ended = False
        pacer = self.host.pacer
        pacer.begin()
        with until_task_ends(pacer.end):
            while not ended:
                data = await clock.bound(exchange.read())
                ended = not data
                record.answered(data)
                if DONE in data:
                    record.status = 200  # a caller who has that may leave before the last POST
                events = cutter.feed(data) if data else cutter.end()
                failure = next((found for event in events if (found := error_in(event))), None)
                if job.request.hides_count:
                    events = [event for event in events if not is_count(event)]
                for output in _native(events) if job.native else chunks_of(events):
                    started = time.monotonic()
                    yield output
                    pacer.posted(time.monotonic() - started)
                if failure is not None:
                    raise refusal(code_in(failure), failure, self.host)

    async def _plain(
        self, job: ParsedJob, exchange: AsgiCall, clock: Deadline, record: RequestRecord
    ) -> Output:
        body = await whole_body(exchange, clock)
        record.answered(body)
        answer: Output = value(exchange, body, job.request.path, self.host)
        if job.request.path == GET["metrics"] and self._monitor and isinstance(answer, str):
            return self._monitor.combined(answer)
        return answer or {"status": "ok"}

    @property
    def busy(self) -> bool:
        """Whether a job is not over, or has been taken and is still to begin."""
        return bool(self.tasks or self._expected)

    @property
    def last_seconds(self) -> float:
        """How long jobs may take to end when they have failed: a batch saves what it has."""
        return RESCUE_SECONDS if self._batches else LAST_SECONDS

    def stop_early(self, names: list[str]) -> None:
        """Remember jobs that are to be stopped and have not begun: they end when they do."""
        self._expected.stop(name for name in names if name not in self._running)

    def never_began(self, name: str) -> None:
        """A job was stopped before the first step of its task."""
        self._expected.was_stopped(name)
        self.on_end()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        self.on_end()

    async def _begin(self, name: str) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        if self._expected.was_stopped(name):
            log.info("stopped before it began")
            task.cancel()
            await asyncio.sleep(0)  # where the cancellation comes out, as for a running job
        self._running.add(name)


async def _told_nobody(job: Mapping[str, Any], counts: Counts) -> None:
    """Nobody looks at a batch's progress."""


def _native(events: list[bytes]) -> Iterator[Output]:
    """Turn events into merged chunk objects; an error event becomes the job's error instead."""
    chunks = [chunk for event in events if (chunk := decode(event)) is not None]
    yield from merge([chunk for chunk in chunks if not chunk.get("error")])
