"""`/run`, `/runsync`, `/status`, `/stream`, `/cancel`: Runpod's queue, of one worker and in memory.

Code that was written for a queue endpoint works against a Pod. Shapes as in Runpod's "Operation
reference" (docs.runpod.io, 2026). Results are kept for half an hour, those of `/runsync` for a
minute, and no longer than the worker lives.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import orjson

from handler.errors import InvalidInput, QueueFull, RequestError, UnknownJob, render
from handler.logs import job_id
from handler.serve.http.admission import AdmissionQueue, Slot
from handler.serve.worker import Output, Worker

KEEP_SECONDS = 1800.0
KEEP_SYNC_SECONDS = 60.0
MOST_BATCHES = 8  # that are not over: each may have a gigabyte on the disk
MOST_KEPT = 10_000
MOST_KEPT_BYTES = 256_000_000  # of all results together
SYNC_WAIT_SECONDS = 90.0
STREAM_WAIT_SECONDS = 5.0
NOT_HERE = {
    "webhook": "ask /status or /stream for the result",
    "s3Config": "the result is in /status",
}


class State(StrEnum):
    """Where a job is."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


FINISHED = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.TIMED_OUT})


class HttpJob:
    """One job and what has come of it."""

    def __init__(self, data: Any, timeout_seconds: float | None) -> None:
        self.id = str(uuid.uuid4())
        self.input = data
        self.timeout_seconds = timeout_seconds
        self.state = State.IN_QUEUE
        self.outputs: list[orjson.Fragment] = []
        self.bytes = 0  # of the outputs
        self.error: str | None = None
        self.progress: Mapping[str, int] | None = None  # of a batch
        self.streamed = 0  # outputs that `/stream` has given
        self.task: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self._queued_at = time.monotonic()
        self._began_at: float | None = None
        self._ended_at: float | None = None

    @property
    def is_batch(self) -> bool:
        """Whether it is many requests."""
        return isinstance(self.input, dict) and "batch" in self.input

    @property
    def is_over(self) -> bool:
        """Whether nothing more is done for it."""
        return self.task is not None and self.task.done()

    async def become(self, state: State) -> None:
        """Change the state, unless it is the last, and tell who waits."""
        if self.state in FINISHED:
            return
        self.state = state
        if state is State.IN_PROGRESS:
            self._began_at = time.monotonic()
        elif state in FINISHED:
            self._ended_at = time.monotonic()
        await self.tell()

    async def tell(self) -> None:
        """Wake who waits for news."""
        async with self._news:
            self._news.notify_all()

    async def finished(self, within_seconds: float) -> None:
        """Wait for the end, no longer than that."""
        await self._until(lambda: self.state in FINISHED, within_seconds)

    async def add(self, output: Output) -> None:
        """Keep an output, as JSON."""
        encoded = json.dumps(output, ensure_ascii=False).encode()
        self.outputs.append(orjson.Fragment(encoded))
        self.bytes += len(encoded)
        await self.tell()

    async def new_outputs(self, within_seconds: float) -> list[dict[str, orjson.Fragment]]:
        """Return what has come since the last call; wait a little for some."""
        await self._until(
            lambda: self.state in FINISHED or len(self.outputs) > self.streamed, within_seconds
        )
        new = self.outputs[self.streamed :]
        self.streamed += len(new)
        return [{"output": output} for output in new]

    async def _until(self, condition: Any, within_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds), self._news:
                await self._news.wait_for(condition)

    def status(self) -> dict[str, Any]:
        """Return what `/status` says."""
        now = time.monotonic()
        shown: dict[str, Any] = {"id": self.id, "status": self.state}
        if self._began_at is not None:
            shown["delayTime"] = _milliseconds(self._began_at - self._queued_at)
        if self._began_at is not None and self._ended_at is not None:
            shown["executionTime"] = _milliseconds((self._ended_at or now) - self._began_at)
        if self.state is State.COMPLETED:
            shown["output"] = self.outputs
        elif self.state is State.IN_PROGRESS and self.progress is not None:
            shown["output"] = self.progress
        if self.error is not None:
            shown["error"] = self.error
        return shown


class Jobs:
    """The jobs of one worker.

    Args:
        worker: answers them.
        slots: places in the engine, which calls of the other routes take as well.
    """

    def __init__(self, worker: Worker, slots: AdmissionQueue) -> None:
        self._worker = worker
        self._slots = slots
        self._jobs: dict[str, HttpJob] = {}
        self._ended: dict[State, int] = dict.fromkeys(FINISHED, 0)
        worker.on_progress = self._note_progress
        worker.place_for_line = slots.line

    def submit(self, body: bytes, keep_seconds: float) -> HttpJob:
        """Queue a job.

        Raises:
            InvalidInput: the order means nothing.
            QueueFull: too many wait already.
        """
        try:
            job = _read(body)
            if job.is_batch and self._batches >= MOST_BATCHES:
                raise QueueFull(
                    f"{self._batches} batches are being answered: wait until one is over."
                )
            place = self._slots.reserve()
        except RequestError as error:
            with self._worker.recorded(str(uuid.uuid4())):
                raise error
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job, place))
        job.task.add_done_callback(lambda _: self._end(job, place, keep_seconds))
        return job

    def get(self, name: str) -> HttpJob:
        """Return a job.

        Raises:
            UnknownJob: there is none of that id.
        """
        if name not in self._jobs:
            raise UnknownJob(f"There is no job {name!r}, or its result is no longer kept.")
        return self._jobs[name]

    async def cancel(self, job: HttpJob) -> None:
        """End a job that is not over."""
        if job.state not in FINISHED and job.task is not None:
            await job.become(State.CANCELLED)
            job.task.cancel()

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are of each kind, as Runpod's `/health` says it."""
        states = [job.state for job in self._jobs.values()]
        return {
            "inQueue": states.count(State.IN_QUEUE),
            "inProgress": states.count(State.IN_PROGRESS),
            "completed": self._ended[State.COMPLETED],
            "failed": self._ended[State.FAILED] + self._ended[State.TIMED_OUT],
            "retried": 0,
        }

    @property
    def unfinished(self) -> int:
        """How many jobs are not over, cancelled ones that tidy up included; from any thread."""
        return sum(not job.is_over for job in list(self._jobs.values()))

    @property
    def _batches(self) -> int:
        return sum(job.is_batch and not job.is_over for job in self._jobs.values())

    async def _note_progress(self, job: Mapping[str, Any], progress: Mapping[str, int]) -> None:
        self._jobs[job["id"]].progress = progress

    async def _run(self, job: HttpJob, place: Slot) -> None:
        job_id.set(job.id)
        try:
            with self._worker.recorded(job.id) as record:
                await place.taken()
                if job.is_batch:
                    place.close()  # its lines take places of their own
                await job.become(State.IN_PROGRESS)
                order = {"id": job.id, "input": job.input}
                async for output in self._worker.outputs(order, record, job.timeout_seconds):
                    if isinstance(output, dict) and output.keys() == {"error"}:
                        job.error = str(output["error"])
                    else:
                        await job.add(output)
        except Exception as error:
            job.error = render(error)
        if record.outcome == "timeout":
            await job.become(State.TIMED_OUT)
        else:
            await job.become(State.FAILED if job.error else State.COMPLETED)

    def _end(self, job: HttpJob, place: Slot, keep_seconds: float) -> None:
        place.close()
        job.input = None  # it may be large, and the result is kept for long
        if job.state in FINISHED:
            self._ended[job.state] += 1
        self._make_room()
        asyncio.get_running_loop().call_later(keep_seconds, self._jobs.pop, job.id, None)

    def _make_room(self) -> None:
        """Forget the oldest results where there are too many, never a job that is not over."""
        kept = [job for job in self._jobs.values() if job.state in FINISHED]
        count, size = len(self._jobs), sum(job.bytes for job in kept)
        for job in kept:
            if count <= MOST_KEPT and size <= MOST_KEPT_BYTES:
                break
            del self._jobs[job.id]
            count, size = count - 1, size - job.bytes


def _read(body: bytes) -> HttpJob:
    try:
        order = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"The body is no JSON: {error}.", "body") from error
    if not isinstance(order, dict) or "input" not in order:
        raise InvalidInput('The body must be an object with an "input".', "input")
    for name, instead in NOT_HERE.items():
        if order.get(name):
            raise InvalidInput(f"{name} is not served here: {instead}.", name)
    policy = order.get("policy") or {}
    return HttpJob(order["input"], _timeout_seconds(policy))


def _timeout_seconds(policy: Mapping[str, Any]) -> float | None:
    if not isinstance(policy, dict):
        raise InvalidInput("policy must be an object.", "policy")
    given = policy.get("executionTimeout")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or given <= 0:
        raise InvalidInput(
            f"policy.executionTimeout must be milliseconds, not {given!r}.", "policy"
        )
    return float(given) / 1000


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
