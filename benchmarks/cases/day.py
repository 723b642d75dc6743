"""The simulation behind `builder plan --traffic`, compared with a worker behind the platform.

The same requests arrive at the same moments on both sides: at a real worker with few slots, whose
engine takes a known time for a step (`--device simulated`), and at a simulated one. Requests are
few and long, so that what a POST or a poll takes does not count.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.load import chat_body
from benchmarks.queue_worker import JOB_TIMEOUT_SECONDS, job_input
from benchmarks.report import Row, Table, Target
from builder.traffic.day import Lengths, constant_traffic
from builder.traffic.endpoint import Scaling, simulate
from builder.traffic.worker import Request, WorkerSpeed
from runpod_local import Job
from runpod_local.endpoint_state import EndpointState

SLOTS = 4
STEP_SECONDS = 0.05
ANSWER = Lengths(200.0)
LOAD = 0.7  # of the worker
SECONDS = 400.0  # in which requests arrive
SEED = 11
ENVIRONMENT = {
    "SIMULATED_STEP_MS": str(1000 * STEP_SECONDS),
    "MAX_NUM_SEQS": str(SLOTS),
    "MAX_CONCURRENCY": str(SLOTS),
}
FIGURES = {
    "queue_mean_seconds": "time in the queue, mean (s)",
    "queue_p95_seconds": "time in the queue, p95 (s)",
    "latency_mean_seconds": "latency, mean (s)",
}
NOTE = "Poisson arrivals at 70 % of what four slots can do, answers of 200 tokens on average."


def measure(bench: Bench) -> dict[str, Any]:
    numbers = random.Random(SEED)
    rate = LOAD * SLOTS / (ANSWER.mean * STEP_SECONDS)
    requests = [
        Request(at, 0.0, max(1, round(ANSWER.draw(numbers))))
        for at in constant_traffic(rate).arrivals(numbers)
        if at < SECONDS
    ]
    with bench.queue_worker(bench.environment(**ENVIRONMENT)) as running:
        jobs = running.platform.run_in_loop(_replay(running.platform.state, requests))
    simulate(
        requests,
        WorkerSpeed((STEP_SECONDS,) * SLOTS),
        Scaling(min_workers=1, max_workers=1),
    )
    return {
        "requests": len(requests),
        "simulated": _figures(
            [(each.arrived, each.first_token or 0, each.finished or 0) for each in requests]
        ),
        "worker": _figures(
            [(each.queued_at, each.taken_at or 0, each.finished_at or 0) for each in jobs]
        ),
    }


async def _replay(state: EndpointState, requests: Sequence[Request]) -> list[Job]:
    """Submit a job for each request at its time, and wait for all."""
    began, jobs = time.monotonic(), []
    for number, request in enumerate(requests):
        await asyncio.sleep(began + request.arrived - time.monotonic())
        body = chat_body(f"Count to {number}.", int(request.answer_tokens))
        jobs.append(state.submit(job_input(body)))
    for job in jobs:
        await job.changed.wait_for(partial(_is_finished, job), JOB_TIMEOUT_SECONDS)
    return jobs


def _is_finished(job: Job) -> bool:
    return job.finished


def _figures(times: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    """Return the figures of (arrival, begin, end) of all requests, in seconds."""
    queue = sorted(begin - arrived for arrived, begin, _ in times)
    return {
        "queue_mean_seconds": statistics.fmean(queue),
        "queue_p95_seconds": queue[int(0.95 * len(queue))],
        "latency_mean_seconds": statistics.fmean(end - arrived for arrived, _, end in times),
    }


def tables(measured: Any) -> Sequence[Table]:
    rows = [
        Row(label, measured["worker"][figure], measured["simulated"][figure], target)
        for figure, label in FIGURES.items()
        for target in (Target(0.9), Target(1.1, is_maximum=True))
    ]
    return [Table("worker", "simulated", rows, NOTE)]


CASE = Case("day", "The simulation of plan --traffic, and a worker", measure, tables)
