"""A worker under load: so many streams at once against the platform in small."""

import asyncio
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from benchmarks.processes import cpu_seconds
from runpod_local import Job, JobState, Platform
from runpod_local.endpoint_state import EndpointState

TIMEOUT_SECONDS = 600.0

JobMaker = Callable[[int, int], dict[str, Any]]


@dataclass(frozen=True)
class Load:
    """What was measured; latencies are seconds from the job's submission.

    Attributes:
        tokens_per_second: of all streams together.
        first_token_p50: median time to first token.
        first_token_p99: the slowest hundredth.
        total_p50: median time to the end of the job.
        token_p50: median seconds of a stream's token after the first.
        gap_p99: between two flushes of a stream, the slowest hundredth.
        posts_per_job: chunks of a stream, its end included.
        cpu_ms_per_token: of all of the worker's processes.
        prompt_tokens: of a job, on average.
        cached_tokens: of these, found in the KV cache.
    """

    tokens_per_second: float
    first_token_p50: float
    first_token_p99: float
    total_p50: float
    token_p50: float
    gap_p99: float
    posts_per_job: float
    cpu_ms_per_token: float
    prompt_tokens: float
    cached_tokens: float


def chat(number: int, tokens: int) -> dict[str, Any]:
    """Return a job that streams exactly so many tokens."""
    return asking(f"Count to {number}.", tokens)


def asking(question: str, tokens: int) -> dict[str, Any]:
    """Return a job with a question that streams exactly so many tokens."""
    return {
        "openai_route": "/v1/chat/completions",
        "openai_input": {
            "messages": [{"role": "user", "content": question}],
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    }


def measure(
    platform: Platform,
    pid: int,
    streams: int,
    jobs: int,
    tokens: int,
    make: JobMaker = chat,
    warm_jobs: int | None = None,
) -> Load:
    """Keep `streams` jobs running until `jobs` are done, after some that are not counted.

    Args:
        platform: what the worker serves.
        pid: the worker's process.
        streams: jobs at once.
        jobs: how many are counted.
        tokens: that each writes.
        make: a job's number and its tokens → its input.
        warm_jobs: how many are not counted; one for each stream unless given.

    Raises:
        RuntimeError: a job failed, or wrote another number of tokens.
    """
    run(platform, streams, streams if warm_jobs is None else warm_jobs, tokens, make)
    cpu = cpu_seconds(pid)
    done = run(platform, streams, jobs, tokens, make)
    return _load(done, tokens, cpu_seconds(pid) - cpu)


def run(
    platform: Platform, streams: int, jobs: int, tokens: int, make: JobMaker = chat
) -> list[Job]:
    """Keep `streams` jobs running until `jobs` are done, and return these."""

    async def users(state: EndpointState) -> list[Job]:
        numbers = iter(range(jobs))
        done: list[Job] = []

        async def user() -> None:
            for number in numbers:
                job = state.submit(make(number, tokens))
                await job.changed.wait_for(lambda job=job: job.finished, TIMEOUT_SECONDS)  # type: ignore[misc]
                del state.jobs[job.id]
                done.append(job)

        await asyncio.gather(*(user() for _ in range(streams)))
        return done

    done = platform.run_in_loop(users(platform.state))
    for job in done:
        if job.state is not JobState.COMPLETED or usage(job)["completion_tokens"] != tokens:
            raise RuntimeError(f"a job went wrong: {job.state}, {job.error or job.chunks[-1:]}")
    return done


def usage(job: Job) -> dict[str, Any]:
    """Return the usage that the end of a stream names."""
    text = "".join(chunk.output for chunk in job.chunks)
    *_, last, end = text.strip().split("\n\n")
    if end != "data: [DONE]":
        raise RuntimeError(f"a stream has no end: {text[-500:]}")
    found: dict[str, Any] = json.loads(last.removeprefix("data: "))["usage"]
    return found


def median(loads: Sequence[Load]) -> Load:
    """Return the median of each figure."""
    return Load(
        **{
            field.name: statistics.median(getattr(load, field.name) for load in loads)
            for field in fields(Load)
        }
    )


def _load(done: Sequence[Job], tokens: int, cpu_seconds_used: float) -> Load:
    first = [job.chunks[0].arrived_at - job.queued_at for job in done]
    total = [(job.finished_at or 0.0) - job.queued_at for job in done]
    gaps = [
        later.arrived_at - earlier.arrived_at
        for job in done
        for earlier, later in zip(job.chunks, job.chunks[1:], strict=False)
    ]
    begun = min(job.queued_at for job in done)
    ended = max(job.finished_at or 0.0 for job in done)
    used = [usage(job) for job in done]
    return Load(
        tokens_per_second=len(done) * tokens / (ended - begun),
        first_token_p50=statistics.median(first),
        first_token_p99=_p99(first),
        total_p50=statistics.median(total),
        token_p50=statistics.median(
            (whole - head) / (tokens - 1) for whole, head in zip(total, first, strict=True)
        ),
        gap_p99=_p99(gaps),
        posts_per_job=statistics.mean(len(job.chunks) + 1 for job in done),
        cpu_ms_per_token=cpu_seconds_used / (len(done) * tokens) * 1000,
        prompt_tokens=statistics.mean(each["prompt_tokens"] for each in used),
        cached_tokens=statistics.mean(_cached(each) for each in used),
    )


def _cached(used: dict[str, Any]) -> int:
    return int((used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]
