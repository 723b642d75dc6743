"""The generator behind every front end: it takes one job and yields its outputs.

A job has one dict (a whole response), one text (metrics), or a stream of texts or dicts; a batch
has outputs of its own. An error is the last yield, `{"error": "<JSON text>"}`: the SDK marks the
job FAILED and keeps the earlier outputs.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from handler.engine.awake_clock import awake_clock
from handler.engine.call.asgi_call import AsgiCall
from handler.engine.call.deadline import Deadline
from handler.engine.call.sse import decode_event
from handler.engine.call.task_end import call_at_task_end
from handler.engine.capacity import batch_concurrency
from handler.engine.response import EngineResponse, send_request
from handler.engine.runtime import NOT_RUNNING, EngineRuntime
from handler.errors import EngineUnavailable, render
from handler.logs import job_id
from handler.metrics.monitor import Monitor
from handler.metrics.request_log import RequestObserver, RequestRecord
from handler.request.parse import ParsedJob, RequestParser
from handler.request.routes import GET, path_of_input
from handler.serve.batch.line import LineRunner
from handler.serve.batch.output import RESCUE_TIMEOUT_SECONDS
from handler.serve.batch.request import BatchRequest, parse_batch_request
from handler.serve.batch.run import Batch, BatchCounts
from handler.serve.memory import MemoryTrimmer
from handler.serve.stream_chunks import join_events, merge_chunks

# For the delivery of errors after a drain or the engine's death: longer than a POST's two retries.
LAST_OUTPUT_GRACE_SECONDS = 7.0

Output = str | dict[str, Any] | list[Any]


class FrontEnd(Protocol):
    """The functions of a front end that a batch calls."""

    async def report_progress(self, job: Mapping[str, Any], counts: BatchCounts) -> None:
        """Publish the line counts of a batch."""

    def batch_line_slot(self) -> AbstractAsyncContextManager[None]:
        """Return a context manager that holds an engine slot for one batch line."""


class NoFrontEnd:
    """The front end of a local job: no progress, and no limit on batch lines."""

    async def report_progress(self, job: Mapping[str, Any], counts: BatchCounts) -> None:
        pass

    def batch_line_slot(self) -> AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()


@dataclass(frozen=True)
class PreparedJob:
    """A parsed job and its call to the engine, which may have started."""

    job: ParsedJob
    call: AsgiCall


class Worker:
    """Runs jobs on one engine.

    Args:
        runtime: the running engine.
        parser: the parser of job inputs.
        max_jobs: the maximum number of concurrent jobs.
        front_end: the caller, for batches.
        request_timeout_seconds: the limit for one request, None for no limit.
        monitor: counts requests, and adds the worker's metrics to the engine's.
        log_content: whether prompts and completions go to the log.
    """

    def __init__(
        self,
        runtime: EngineRuntime,
        parser: RequestParser,
        *,
        max_jobs: int,
        front_end: FrontEnd,
        request_timeout_seconds: float | None = None,
        monitor: Monitor | None = None,
        log_content: bool = False,
    ) -> None:
        self.runtime = runtime
        self.parser = parser
        self.request_timeout_seconds = request_timeout_seconds
        self._max_jobs = max_jobs
        self._front_end = front_end
        self._monitor = monitor
        self._observer: RequestObserver = monitor.metrics if monitor else RequestObserver()
        self._cost = monitor.cost if monitor else None
        self._log_content = log_content
        self._batches: set[str] = set()
        self._trimmer = MemoryTrimmer()

    @property
    def last_output_grace_seconds(self) -> float:
        """The time for failed jobs to end; a batch needs more, to save its results."""
        return RESCUE_TIMEOUT_SECONDS if self._batches else LAST_OUTPUT_GRACE_SECONDS

    async def handle(self, job: Mapping[str, Any]) -> AsyncIterator[Output]:
        """Run one job and write its log line."""
        name = str(job.get("id", ""))
        job_id.set(name)
        with self.recorded(name) as record:
            async for output in self.outputs(job, record):
                yield output

    @contextlib.contextmanager
    def recorded(self, name: str) -> Iterator[RequestRecord]:
        """Record one request for the log and the metrics, from begin to end of the block."""
        record = RequestRecord(name, self._log_content, self._cost)
        self._observer.began(record)

        def end() -> None:
            record.finish()
            self._observer.ended(record)

        with call_at_task_end(end):
            try:
                yield record
            except Exception as error:
                record.failed(error)
                raise

    def released(self, size: int) -> None:
        """Take note that a job with an input of this size has ended."""
        self._trimmer.released(size)

    def prepare(self, job: Mapping[str, Any]) -> PreparedJob:
        """Parse a job and prepare its call to the engine.

        Raises:
            RequestError: the input is invalid, or the engine is not running.
        """
        return self._prepared(self.parser.parse_job(job))

    def _prepared(self, parsed: ParsedJob) -> PreparedJob:
        return PreparedJob(parsed, self.runtime.prepare_call(parsed.request))

    async def outputs(
        self,
        job: Mapping[str, Any],
        record: RequestRecord,
        *,
        execution_timeout_seconds: float | None = None,
        prepared: PreparedJob | None = None,
        is_large: bool = False,
    ) -> AsyncIterator[Output]:
        """Run one job and yield its outputs; the current task must end with the job.

        Args:
            job: with `id` and `input`.
            record: the job's record.
            execution_timeout_seconds: the job's own `policy.executionTimeout`.
            prepared: the result of `prepare`, if it was called before.
            is_large: whether to parse the job on a thread; not for a batch.
        """
        try:
            if is_large:
                record.route = path_of_input(job.get("input")) or record.route
                parsed = await asyncio.to_thread(self.parser.parse_job, job)
                prepared = self._prepared(parsed)
            async for output in self._outputs(job, record, execution_timeout_seconds, prepared):
                yield output
            record.status = 200
        except Exception as error:
            record.failed(error)
            # The engine's request has ended by now: the SDK closes this generator late.
            yield {"error": render(error)}

    def _outputs(
        self,
        job: Mapping[str, Any],
        record: RequestRecord,
        execution_timeout_seconds: float | None,
        prepared: PreparedJob | None,
    ) -> AsyncIterator[Output]:
        if prepared is None and (request := parse_batch_request(job.get("input"))) is not None:
            record.route = "batch"
            # REQUEST_TIMEOUT applies to each line.
            deadline = Deadline(execution_timeout_seconds, "policy.executionTimeout")
            return self._batch_outputs(self._batch(request, job), deadline, record.id)
        record.route = path_of_input(job.get("input")) or record.route
        prepared = prepared or self.prepare(job)
        record.sent(prepared.job.request.path, prepared.job.request.body)
        return self._answer(prepared, self._deadline(execution_timeout_seconds), record)

    def _deadline(self, execution_timeout_seconds: float | None) -> Deadline:
        """Return the shorter of REQUEST_TIMEOUT and the job's own timeout."""
        own, general = execution_timeout_seconds, self.request_timeout_seconds
        if own is None or (general is not None and general < own):
            return Deadline(general)
        return Deadline(own, "policy.executionTimeout")

    # ---- one request ----

    async def _answer(
        self, prepared: PreparedJob, deadline: Deadline, record: RequestRecord
    ) -> AsyncIterator[Output]:
        job = prepared.job
        released = functools.partial(self._trimmer.released, len(job.request.body))
        with call_at_task_end(released):
            async with send_request(
                self.runtime,
                job.request,
                deadline=deadline,
                call=prepared.call,
                on_data=record.add_output,
            ) as response:
                if not response.is_stream:
                    yield await self._plain_output(job, response)
                    return
                record.streams = True
                async for events in response.events(with_error=not job.native):
                    for output in _merged(events) if job.native else join_events(events):
                        started = awake_clock.now()
                        yield output
                        self.runtime.pacer.flushed(awake_clock.now() - started)

    async def _plain_output(self, job: ParsedJob, response: EngineResponse) -> Output:
        value: Output = await response.value()
        if job.request.path == GET["metrics"] and self._monitor and isinstance(value, str):
            return self._monitor.with_worker_metrics(value)
        if value == "" and job.request.path == GET["health"]:
            return {"status": "ok"}
        return value

    # ---- a batch ----

    async def _batch_outputs(
        self, batch: Batch, deadline: Deadline, name: str
    ) -> AsyncIterator[Output]:
        self._batches.add(name)
        with call_at_task_end(functools.partial(self._batches.discard, name)):
            async for output in batch.outputs(deadline):
                yield output

    def _batch(self, request: BatchRequest, job: Mapping[str, Any]) -> Batch:
        running = self.runtime.running
        if running is None:
            raise EngineUnavailable(NOT_RUNNING)
        return Batch(
            request,
            job_id=str(job.get("id", "")),
            line_runner=LineRunner(
                runtime=self.runtime,
                parser=self.parser,
                recorded=self.recorded,
                timeout_seconds=self.request_timeout_seconds,
                slot=self._front_end.batch_line_slot,
            ),
            concurrency=batch_concurrency(request.concurrency, self._max_jobs, running.capacity),
            report_progress=functools.partial(self._front_end.report_progress, job),
        )


def _merged(events: list[bytes]) -> Iterator[Output]:
    """Return the events of a native stream as merged chunk objects."""
    yield from merge_chunks([chunk for event in events if (chunk := decode_event(event))])
