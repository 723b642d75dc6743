"""A worker behind the local platform: its cold start, its metrics, and jobs as load."""

import json
import re
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from benchmarks import load
from benchmarks.devices import PYTHON
from benchmarks.load import Body, LoadTarget, Response, Send
from runpod_local import Job, JobState, Platform, running_platform, running_worker

T = TypeVar("T")

START_TIMEOUT_SECONDS = 300.0
STOP_TIMEOUT_SECONDS = 30.0
JOB_TIMEOUT_SECONDS = 600.0
METRICS_TIMEOUT_SECONDS = 60.0
POST_DELAY_SECONDS = 0.05  # of the platform, unless a case sets another
FIRST_JOB_TOKENS = 2


@dataclass(frozen=True)
class WorkerCommand:
    """A worker to compare.

    Attributes:
        name: in the results.
        stop_timeout_seconds: after which it is killed.
        is_baseline: its start is read from its log, and it may be killed at the end.
        engine: "vllm" or "sglang".
    """

    name: str
    command: tuple[str, ...]
    stop_timeout_seconds: float = STOP_TIMEOUT_SECONDS
    is_baseline: bool = False
    engine: str = "vllm"


WORKER = WorkerCommand("worker", (PYTHON["vllm"], "-m", "handler"))
SGLANG_WORKER = WorkerCommand("worker-sglang", (PYTHON["sglang"], "-m", "handler"), engine="sglang")
BASELINE = WorkerCommand("baseline", (PYTHON["vllm"], "-m", "benchmarks.baseline"), 1.0, True)


@dataclass(frozen=True)
class Stage:
    """A part of the start, in seconds since the process's start; parts may overlap."""

    name: str
    begin_seconds: float
    seconds: float


@dataclass(frozen=True)
class Start:
    """A cold start, from the process's start to the first token of a job that was waiting."""

    seconds: float
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class QueueWorker(LoadTarget):
    """A worker that has answered its first job."""

    platform: Platform
    pid: int
    start: Start

    def drive(self, use: Callable[[Send], Coroutine[Any, Any, T]]) -> T:
        """Run load on the platform's event loop, where a job needs no HTTP request."""

        state = self.platform.state

        async def send(body: Body) -> Response:
            job = state.submit(job_input(body))
            await job.changed.wait_for(lambda: job.finished, JOB_TIMEOUT_SECONDS)
            del state.jobs[job.id]
            return _response(job)

        return self.platform.run_in_loop(use(send))


@contextmanager
def running_queue_worker(
    worker: WorkerCommand, environ: Mapping[str, str], log: Path, accept_queue: int = 128
) -> Iterator[QueueWorker]:
    """Run a worker, with a job in the queue from the beginning.

    Args:
        accept_queue: of the platform's server.

    Raises:
        RuntimeError: it did not start, or the first job failed.
        TimeoutError: it took too long to start or to stop.
    """
    used = False
    try:
        with (
            running_platform(
                post_delay_seconds=POST_DELAY_SECONDS, accept_queue=accept_queue
            ) as platform,
            log.open("wb") as file,
        ):
            waiting = platform.submit(job_input(load.chat_body("Hello", FIRST_JOB_TOKENS)))
            began_at = time.monotonic()
            with running_worker(
                platform,
                worker.command,
                environ,
                ready_within_seconds=START_TIMEOUT_SECONDS,
                stop_within_seconds=worker.stop_timeout_seconds,
                log=file,
            ) as process:
                job = platform.wait(waiting, START_TIMEOUT_SECONDS)
                if job.error:
                    raise RuntimeError(f"the first job failed: {job.error}")
                if worker.is_baseline:
                    stages = baseline_stages(log.read_text(errors="replace"), began_at)
                else:
                    stages = worker_stages(fetch_metrics(platform))
                yield QueueWorker(platform, process.pid, _start(platform, job, began_at, stages))
                used = True
    except TimeoutError:
        if not (used and worker.is_baseline):
            raise


def fetch_metrics(platform: Platform) -> str:
    """The worker's metrics in Prometheus' text format, from a job."""
    job = platform.wait(platform.submit({"route": "metrics"}), METRICS_TIMEOUT_SECONDS)
    if job.error:
        raise RuntimeError(f"the worker gave no metrics: {job.error}")
    return str(job.output[0])


def worker_stages(exposition: str) -> tuple[Stage, ...]:
    """Stages of the start from the worker's metrics."""
    seconds, begins = (
        {sample.labels["stage"]: sample.value for sample in _samples(exposition, name)}
        for name in ("llm_worker_start_seconds", "llm_worker_start_offset_seconds")
    )
    return tuple(Stage(name, begins[name], seconds[name]) for name in begins if name in seconds)


def baseline_stages(log: str, began_at: float) -> tuple[Stage, ...]:
    """Stages of the start from the line that the baseline prints; none without it."""
    printed = re.search(r'^\{"server_started_at".*\}$', log, re.MULTILINE)
    if printed is None:
        return ()
    times = json.loads(printed[0])
    server, healthy = (times[name] - began_at for name in ("server_started_at", "healthy_at"))
    return (
        Stage("imports of the worker", 0.0, server),
        Stage("server, until it is found healthy", server, healthy - server),
    )


def median_start(starts: Sequence[Start]) -> Start:
    """The start of median length, with its stages; the shorter one of two."""
    middle = statistics.median_low([start.seconds for start in starts])
    return next(start for start in starts if start.seconds == middle)


def metric_total(exposition: str, name: str) -> float:
    """Sum of a metric over its labels; 0 where there is none."""
    return sum(sample.value for sample in _samples(exposition, name))


def _samples(exposition: str, name: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(exposition):
        yield from (sample for sample in family.samples if sample.name == name)


def _start(platform: Platform, job: Job, began_at: float, stages: tuple[Stage, ...]) -> Start:
    """The start as measured by the platform, with the stages that the worker reports."""
    polled_at = min(worker.ready_at or began_at for worker in platform.workers.values())
    first_token_at, ready = job.chunks[0].arrived_at, polled_at - began_at
    stages = stages or (Stage("until the first poll", 0.0, ready),)
    first_job = Stage("first job", ready, first_token_at - polled_at)
    return Start(first_token_at - began_at, (*stages, first_job))


def job_input(body: Body) -> dict[str, Any]:
    return {"openai_route": "/v1/chat/completions", "openai_input": dict(body)}


def _response(job: Job) -> Response:
    if job.state is not JobState.COMPLETED:
        raise RuntimeError(f"a job is {job.state}: {job.error or job.chunks[-1:]}")
    response = Response(
        [chunk.arrived_at - job.queued_at for chunk in job.chunks],
        (job.finished_at or 0.0) - job.queued_at,
        messages=len(job.chunks) + 1,  # the job's end is a POST of its own
    )
    response.count("".join(chunk.output for chunk in job.chunks))
    return response
