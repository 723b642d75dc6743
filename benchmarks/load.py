"""A worker under load: so many streams at once against the platform in small."""

import asyncio
import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.processes import cpu_seconds
from tests.platform import Job, Platform, State
from tests.platform.store import Store

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Load:
    """What was measured; latencies are seconds from the job's submission.

    Attributes:
        streams: jobs at once.
        tokens_per_second: of all streams together.
        first_token_p50: median time to first token.
        first_token_p99: the slowest hundredth.
        total_p50: median time to the end of the job.
        gap_p99: between two flushes of a stream, the slowest hundredth.
        posts_per_job: chunks of a stream, its end included.
        cpu_ms_per_token: of all of the worker's processes.
    """

    streams: int
    tokens_per_second: float
    first_token_p50: float
    first_token_p99: float
    total_p50: float
    gap_p99: float
    posts_per_job: float
    cpu_ms_per_token: float


def measure(platform: Platform, pid: int, streams: int, jobs: int, tokens: int) -> Load:
    """Keep `streams` jobs running until `jobs` are done, after a round that is not counted.

    Raises:
        RuntimeError: a job failed, or wrote another number of tokens.
    """
    platform.drive(lambda store: _run(store, streams, streams, tokens))
    cpu = cpu_seconds(pid)
    done = platform.drive(lambda store: _run(store, streams, jobs, tokens))
    used = cpu_seconds(pid) - cpu
    first = [job.chunks[0].arrived_at - job.queued_at for job in done]
    gaps = [
        later.arrived_at - earlier.arrived_at
        for job in done
        for earlier, later in zip(job.chunks, job.chunks[1:], strict=False)
    ]
    begun = min(job.queued_at for job in done)
    ended = max(job.finished_at or 0.0 for job in done)
    return Load(
        streams=streams,
        tokens_per_second=len(done) * tokens / (ended - begun),
        first_token_p50=statistics.median(first),
        first_token_p99=_p99(first),
        total_p50=statistics.median((job.finished_at or 0.0) - job.queued_at for job in done),
        gap_p99=_p99(gaps),
        posts_per_job=statistics.mean(len(job.chunks) + 1 for job in done),
        cpu_ms_per_token=used / (len(done) * tokens) * 1000,
    )


def chat(number: int, tokens: int) -> dict[str, Any]:
    """Return a job that streams exactly so many tokens."""
    return {
        "openai_route": "/v1/chat/completions",
        "openai_input": {
            "messages": [{"role": "user", "content": f"Count to {number}."}],
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    }


async def _run(store: Store, streams: int, jobs: int, tokens: int) -> list[Job]:
    numbers = iter(range(jobs))
    done: list[Job] = []

    async def user() -> None:
        for number in numbers:
            job = store.submit(chat(number, tokens))
            await job.news.wait_for(lambda job=job: job.finished, TIMEOUT_SECONDS)
            _check(job, tokens)
            done.append(job)
            del store.jobs[job.id]

    await asyncio.gather(*(user() for _ in range(streams)))
    return done


def _check(job: Job, tokens: int) -> None:
    text = "".join(chunk.output for chunk in job.chunks)
    whole = f'"completion_tokens":{tokens}' in text.replace(" ", "") and "[DONE]" in text
    if job.state is not State.COMPLETED or not whole:
        raise RuntimeError(f"a job went wrong: {job.state}, {job.error or text[-500:]}")


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]
