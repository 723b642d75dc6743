"""`/run`, `/runsync`, `/status`, `/stream`, `/cancel`: Runpod's queue for one worker, in memory.

Clients of a queue endpoint can use a Pod without changes. The shapes are those of Runpod's
"Operation reference" (docs.runpod.io, 2026). Results are kept for 30 minutes, those of `/runsync`
for one, and are lost when the worker ends.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any

import orjson

from handler.errors import (
    EngineUnavailable,
    InvalidInput,
    QueueFull,
    RequestError,
    UnknownJob,
    render,
)
from handler.logs import job_id
from handler.request.body_limits import SUBMISSION_FACTOR
from handler.request.json_text import paused_collector, shown
from handler.serve.http.admission import AdmissionQueue, Slot
from handler.serve.http.body import OFF_LOOP_BYTES
from handler.serve.worker import Output, Worker

KEEP_SECONDS = 1800.0
KEEP_SYNC_SECONDS = 60.0
MAX_BATCHES = 8  # unfinished ones; each may take a gigabyte of disk
MAX_KEPT_JOBS = 10_000
MAX_KEPT_BYTES = 256_000_000  # for all results together
SYNC_WAIT_SECONDS = 90.0
STREAM_WAIT_SECONDS = 5.0
INTERRUPTED = "The job was interrupted before it was complete: submit it again."
UNSUPPORTED_FIELDS = {
    "webhook": "get the result from /status or /stream",
    "s3Config": "get the result from /status",
}


class JobState(StrEnum):
    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


FINISHED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT})


class HttpJob:
    """One job, its state and its outputs.

    Args:
        data: the job's input.
        execution_timeout_seconds: the job's own `policy.executionTimeout`.
        owner: the number of the API key that submitted it; None without keys.
        input_bytes: the size of the body with the input.

    Attributes:
        task: the task that runs the job.
    """

    def __init__(
        self,
        data: Any,
        execution_timeout_seconds: float | None,
        owner: int | None = None,
        input_bytes: int = 0,
    ) -> None:
        self.owner = owner
        self.id = str(uuid.uuid4())
        self.input = data
        self.input_bytes = input_bytes
        self.execution_timeout_seconds = execution_timeout_seconds
        self.state = JobState.IN_QUEUE
        self.outputs: list[orjson.Fragment] = []
        self.output_bytes = 0
        self.error: str | None = None
        self._progress: Mapping[str, int] | None = None  # the line counts of a batch
        self.task: asyncio.Task[None] | None = None
        self._streamed_outputs = 0  # already returned by `/stream`
        self._changed = asyncio.Condition()
        self._queued_at = time.monotonic()
        self._started_at: float | None = None
        self._ended_at: float | None = None

    @property
    def is_batch(self) -> bool:
        return isinstance(self.input, dict) and self.input.get("batch") is not None

    @property
    def is_large(self) -> bool:
        """Whether the job's request is parsed on a thread."""
        return self.input_bytes >= OFF_LOOP_BYTES and not self.is_batch

    @property
    def is_task_done(self) -> bool:
        """Whether the job's task has ended; a cancelled job's task ends later than its state."""
        return self.task is not None and self.task.done()

    async def set_state(self, state: JobState) -> None:
        """Change the state, unless the job is finished."""
        if self.state in FINISHED:
            return
        self.state = state
        if state is JobState.IN_PROGRESS:
            self._started_at = time.monotonic()
        elif state in FINISHED:
            self._ended_at = time.monotonic()
        await self._notify()

    async def add(self, output: Output) -> None:
        encoded = json.dumps(output, ensure_ascii=False).encode()
        self.outputs.append(orjson.Fragment(encoded))
        self.output_bytes += len(encoded)
        await self._notify()

    def report_progress(self, counts: Mapping[str, int]) -> None:
        """Show the line counts of a batch in `/status`."""
        self._progress = counts

    async def wait_until_finished(self, timeout_seconds: float) -> None:
        """Wait until the job is finished, or until the timeout."""
        await self._wait_until(lambda: self.state in FINISHED, timeout_seconds)

    async def new_outputs(self, timeout_seconds: float) -> list[dict[str, orjson.Fragment]]:
        """Return the outputs since the last call; wait for the first one until the timeout."""
        await self._wait_until(
            lambda: self.state in FINISHED or len(self.outputs) > self._streamed_outputs,
            timeout_seconds,
        )
        new = self.outputs[self._streamed_outputs :]
        self._streamed_outputs += len(new)
        return [{"output": output} for output in new]

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait_until(self, condition: Callable[[], bool], timeout_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(condition)

    def status(self) -> dict[str, Any]:
        """Return the body of `/status`."""
        body: dict[str, Any] = {"id": self.id, "status": self.state}
        if self._started_at is not None:
            body["delayTime"] = _milliseconds(self._started_at - self._queued_at)
        if self._started_at is not None and self._ended_at is not None:
            body["executionTime"] = _milliseconds(self._ended_at - self._started_at)
        if self.state is JobState.COMPLETED:
            body["output"] = self.outputs
        elif self.state is JobState.IN_PROGRESS and self._progress is not None:
            body["output"] = self._progress
        if self.error is not None:
            body["error"] = self.error
        return body


class HttpJobs:
    """The jobs of one worker; they share the admission queue with the other routes.

    Args:
        max_kept_jobs: the maximum number of kept results; the oldest are dropped first.
    """

    def __init__(
        self, worker: Worker, admission: AdmissionQueue, max_kept_jobs: int = MAX_KEPT_JOBS
    ) -> None:
        self._worker = worker
        self._admission = admission
        self._max_kept_jobs = max_kept_jobs
        self._jobs: dict[str, HttpJob] = {}
        self._finished_counts: dict[JobState, int] = dict.fromkeys(FINISHED, 0)

    def parse(self, body: bytes, owner: int | None = None) -> HttpJob:
        """Return the job in a request body, which only `owner` can get; on any thread.

        Raises:
            InputTooLarge: the body has too many values.
            InvalidInput: the body is invalid.
        """
        if (limits := self._worker.parser.body_limits) is not None:
            limits.check_text(body, factor=SUBMISSION_FACTOR)
        return _parse_submission(body, owner)

    async def submit(self, parsed: Awaitable[HttpJob], keep_seconds: float) -> HttpJob:
        """Queue a job once it is parsed.

        Raises:
            RequestError: `parsed` raised it.
            QueueFull: too many jobs are waiting.
        """
        try:
            job = await parsed
            batches = sum(each.is_batch and not each.is_task_done for each in self._jobs.values())
            if job.is_batch and batches >= MAX_BATCHES:
                raise QueueFull(
                    f"The limit of {MAX_BATCHES} concurrent batches is reached: try again later."
                )
            slot = self._admission.enter()
        except RequestError as error:
            with self._worker.recorded(str(uuid.uuid4())):
                raise error
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job, slot))
        job.task.add_done_callback(lambda _: self._end(job, slot, keep_seconds))
        return job

    def get(self, name: str, owner: int | None = None) -> HttpJob:
        """Return a job by its id; raises UnknownJob, also for a job of another owner."""
        job = self._jobs.get(name)
        if job is None or job.owner != owner:
            raise UnknownJob(f"There is no job {name!r}, or its result has expired.")
        return job

    def report_progress(self, name: str, counts: Mapping[str, int]) -> None:
        """Show the line counts of a batch in its `/status`."""
        self._jobs[name].report_progress(counts)

    async def cancel(self, job: HttpJob) -> None:
        if job.state not in FINISHED and job.task is not None:
            await job.set_state(JobState.CANCELLED)
            job.task.cancel()

    def counts(self) -> dict[str, int]:
        """Return the job counts of Runpod's `/health`."""
        states = [job.state for job in self._jobs.values()]
        finished = self._finished_counts
        return {
            "inQueue": states.count(JobState.IN_QUEUE),
            "inProgress": states.count(JobState.IN_PROGRESS),
            "completed": finished[JobState.COMPLETED],
            "failed": finished[JobState.FAILED] + finished[JobState.TIMED_OUT],
            "retried": 0,
        }

    @property
    def unfinished(self) -> int:
        """The number of jobs whose task has not ended; thread-safe."""
        return sum(not job.is_task_done for job in list(self._jobs.values()))

    async def _run(self, job: HttpJob, slot: Slot) -> None:
        job_id.set(job.id)
        record = None
        try:
            with self._worker.recorded(job.id) as record:
                await slot.acquired()
                if job.is_batch:
                    slot.close()  # each line takes a slot of its own
                await job.set_state(JobState.IN_PROGRESS)
                async for output in self._worker.outputs(
                    {"id": job.id, "input": job.input},
                    record,
                    execution_timeout_seconds=job.execution_timeout_seconds,
                    is_large=job.is_large,
                ):
                    if isinstance(output, dict) and output.keys() == {"error"}:
                        job.error = str(output["error"])
                    else:
                        await job.add(output)
        except Exception as error:
            job.error = render(error)
        except asyncio.CancelledError:
            if job.state not in FINISHED:  # it was not `cancel`
                job.error = render(EngineUnavailable(INTERRUPTED))
            raise
        finally:
            if record is not None and record.outcome == "timeout":
                await job.set_state(JobState.TIMED_OUT)
            else:
                await job.set_state(JobState.FAILED if job.error else JobState.COMPLETED)

    def _end(self, job: HttpJob, slot: Slot, keep_seconds: float) -> None:
        slot.close()
        job.input = None  # it may be large
        if job.state in FINISHED:
            self._finished_counts[job.state] += 1
        self._drop_oldest()
        asyncio.get_running_loop().call_later(keep_seconds, self._jobs.pop, job.id, None)

    def _drop_oldest(self) -> None:
        """Drop the oldest results over the limits, but no job whose task still runs."""
        ended = [job for job in self._jobs.values() if job.is_task_done]
        count, size = len(self._jobs), sum(job.output_bytes for job in ended)
        for job in ended:
            if count <= self._max_kept_jobs and size <= MAX_KEPT_BYTES:
                break
            del self._jobs[job.id]
            count, size = count - 1, size - job.output_bytes


def _parse_submission(body: bytes, owner: int | None) -> HttpJob:
    try:
        with paused_collector():
            submission = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"The body is not JSON: {error}.", "body") from error
    if not isinstance(submission, dict) or "input" not in submission:
        raise InvalidInput('The body must be a JSON object with an "input".', "input")
    for name, alternative in UNSUPPORTED_FIELDS.items():
        if submission.get(name):
            raise InvalidInput(f"{name} is not supported: {alternative}.", name)
    policy = submission.get("policy") or {}
    if not isinstance(policy, dict):
        raise InvalidInput("policy must be a JSON object.", "policy")
    timeout_seconds = _execution_timeout(policy.get("executionTimeout"))
    return HttpJob(submission["input"], timeout_seconds, owner, len(body))


def _execution_timeout(milliseconds: object) -> float | None:
    """Return `policy.executionTimeout` in seconds."""
    if milliseconds is None:
        return None
    if (
        isinstance(milliseconds, bool)
        or not isinstance(milliseconds, int | float)
        or milliseconds <= 0
    ):
        raise InvalidInput(
            f"policy.executionTimeout must be a positive number of milliseconds, got "
            f"{shown(milliseconds)}.",
            "policy",
        )
    return milliseconds / 1000


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
