"""An HTTP server under load: so many streams at once, read as they come by one lean client."""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from benchmarks.load import chat
from benchmarks.processes import cpu_seconds

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class HttpLoad:
    """What was measured; seconds from the request.

    Attributes:
        tokens_per_second: of all streams together.
        first_token_p50: median time to the first bytes of a stream.
        first_token_p99: the slowest hundredth.
        total_p50: median time to the end.
        reads_per_stream: pieces in which a stream came.
        cpu_ms_per_token: of all of the server's processes.
    """

    tokens_per_second: float
    first_token_p50: float
    first_token_p99: float
    total_p50: float
    reads_per_stream: float
    cpu_ms_per_token: float


@dataclass(frozen=True)
class _Stream:
    first: float
    total: float
    reads: int


def measure(url: str, key: str, pid: int, streams: int, count: int, tokens: int) -> HttpLoad:
    """Keep `streams` requests open until `count` are done, after one of each that is not counted.

    Raises:
        RuntimeError: an answer is an error, or has another number of tokens.
    """
    asyncio.run(_run(url, key, streams, streams, tokens))
    cpu, began = cpu_seconds(pid), time.monotonic()
    done = asyncio.run(_run(url, key, streams, count, tokens))
    seconds, used = time.monotonic() - began, cpu_seconds(pid) - cpu
    first = [each.first for each in done]
    return HttpLoad(
        tokens_per_second=count * tokens / seconds,
        first_token_p50=statistics.median(first),
        first_token_p99=statistics.quantiles(first, n=100)[-1],
        total_p50=statistics.median(each.total for each in done),
        reads_per_stream=statistics.mean(each.reads for each in done),
        cpu_ms_per_token=used / (count * tokens) * 1000,
    )


async def _run(url: str, key: str, streams: int, count: int, tokens: int) -> Sequence[_Stream]:
    numbers = iter(range(count))
    done: list[_Stream] = []
    timeout = aiohttp.ClientTimeout(TIMEOUT_SECONDS)
    headers = {"Authorization": f"Bearer {key}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers
    ) as session:

        async def user() -> None:
            for number in numbers:
                done.append(await _stream(session, url, number, tokens))

        await asyncio.gather(*(user() for _ in range(streams)))
    return done


async def _stream(session: aiohttp.ClientSession, url: str, number: int, tokens: int) -> _Stream:
    body = chat(number, tokens)["openai_input"]
    began, first, reads, tail = time.monotonic(), 0.0, 0, b""
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        async for data in answer.content.iter_any():
            first = first or time.monotonic() - began
            reads += 1
            tail = (tail + data)[-2000:]
    total = time.monotonic() - began
    events = tail.strip().split(b"\n\n")
    if answer.status != 200 or events[-1] != b"data: [DONE]":
        raise RuntimeError(f"a stream went wrong: {answer.status}, {tail[-500:]!r}")
    usage = json.loads(events[-2].removeprefix(b"data: "))["usage"]
    if usage["completion_tokens"] != tokens:
        raise RuntimeError(f"{usage['completion_tokens']} tokens in place of {tokens}")
    return _Stream(first, total, reads)
