"""Load generator: a number of concurrent streams, and the figures of their responses.

It does not depend on how requests are sent: a `LoadTarget` is a worker behind the platform or an
HTTP server, and `direct.py` calls the engine in its own process.
"""

import asyncio
import json
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any, TypeVar

from benchmarks.machine import cpu_seconds, cpu_seconds_by_process

T = TypeVar("T")
Body = Mapping[str, Any]
"""An OpenAI request body that streams exactly `max_tokens` tokens."""
Figures = Mapping[str, float]
"""What was measured at one level of concurrency, by the names of `FIGURES`."""
Loads = Mapping[int, Figures]
"""Figures by the level of concurrency."""

FIGURES = {
    "output_tokens_per_second": "throughput (tokens/s)",
    "requests_per_second": "request rate (1/s)",
    "ttft_p50_seconds": "time to first token, p50 (s)",
    "ttft_p99_seconds": "time to first token, p99 (s)",
    "itl_p50_seconds": "inter-token latency, p50 (s)",  # median over the means of the responses
    "e2e_latency_p50_seconds": "end-to-end latency, p50 (s)",
    "flush_gap_p99_seconds": "gap between flushes, p99 (s)",
    "messages_per_request": "messages per request",  # POSTs to the platform, reads of the client
    "cpu_ms_per_token": "CPU per token (ms)",  # of all processes of the worker or server
    "busiest_cpu_ms_per_token": "CPU per token of the busiest process (ms)",
    "prompt_tokens": "prompt tokens",
    "cached_tokens": "cached prompt tokens",
}


@dataclass
class Response:
    """One streamed response; all times are seconds since its request.

    Attributes:
        flush_seconds: when each piece of the stream arrived.
        end_seconds: when the whole response was there.
        messages: POSTs to the platform, or pieces that the client has read.
    """

    flush_seconds: list[float] = field(default_factory=list)
    end_seconds: float = 0.0
    messages: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    def count(self, stream: str) -> None:
        """Take the token counts from the usage at the end of a stream of server-sent events."""
        *_, last, end = stream.strip().rsplit("\n\n", 2)
        if end != "data: [DONE]":
            raise RuntimeError(f"a stream has no end: {stream[-500:]}")
        usage = json.loads(last.removeprefix("data: "))["usage"]
        self.completion_tokens = usage["completion_tokens"]
        self.prompt_tokens = usage["prompt_tokens"]
        details = usage.get("prompt_tokens_details") or {}
        self.cached_tokens = details.get("cached_tokens") or 0


Send = Callable[[Body], Awaitable[Response]]


async def send_all(send: Send, concurrency: int, bodies: Sequence[Body]) -> list[Response]:
    """Keep `concurrency` requests open until each body has its response.

    Raises:
        RuntimeError: a response has another number of tokens than requested.
    """
    waiting = iter(bodies)
    responses: list[Response] = []

    async def user() -> None:
        for body in waiting:
            response = await send(body)
            if response.completion_tokens != body["max_tokens"]:
                raise RuntimeError(
                    f"a response has {response.completion_tokens} tokens "
                    f"instead of {body['max_tokens']}"
                )
            responses.append(response)

    await asyncio.gather(*(user() for _ in range(concurrency)))
    return responses


async def measure(send: Send, pid: int, concurrency: int, bodies: Sequence[Body]) -> Figures:
    """Send all bodies; `pid` is the process whose CPU time counts."""
    cpu, before, began = cpu_seconds(pid), cpu_seconds_by_process(pid), time.monotonic()
    responses = await send_all(send, concurrency, bodies)
    seconds, cpu = time.monotonic() - began, cpu_seconds(pid) - cpu
    after = cpu_seconds_by_process(pid)
    busiest = max(used - before.get(process, 0.0) for process, used in after.items())
    tokens = sum(response.completion_tokens for response in responses)
    first = [response.flush_seconds[0] for response in responses]
    gaps = [
        later - earlier
        for response in responses
        for earlier, later in zip(response.flush_seconds, response.flush_seconds[1:], strict=False)
    ]
    return {
        "output_tokens_per_second": tokens / seconds,
        "requests_per_second": len(responses) / seconds,
        "ttft_p50_seconds": median(first),
        "ttft_p99_seconds": p99(first),
        "itl_p50_seconds": median(
            (response.end_seconds - response.flush_seconds[0]) / (response.completion_tokens - 1)
            for response in responses
        ),
        "e2e_latency_p50_seconds": median(response.end_seconds for response in responses),
        "flush_gap_p99_seconds": p99(gaps) if gaps else 0.0,
        "messages_per_request": mean(response.messages for response in responses),
        "cpu_ms_per_token": cpu / tokens * 1000,
        "busiest_cpu_ms_per_token": busiest / tokens * 1000,
        "prompt_tokens": mean(response.prompt_tokens for response in responses),
        "cached_tokens": mean(response.cached_tokens for response in responses),
    }


def median_loads(runs: Sequence[Loads]) -> dict[int, Figures]:
    """Median of each figure over several runs, at each level of concurrency."""
    return {
        level: {name: median(run[level][name] for run in runs) for name in figures}
        for level, figures in runs[0].items()
    }


def p99(values: Sequence[float]) -> float:
    """99th percentile by the nearest rank: a value that was measured."""
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]


class LoadTarget(ABC):
    """A worker or server under load, with the process whose CPU time counts."""

    pid: int

    @abstractmethod
    def drive(self, use: Callable[[Send], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function, with a function that sends requests as its argument."""

    def send_all(self, concurrency: int, bodies: Sequence[Body]) -> list[Response]:
        """Send the bodies without measuring."""
        return self.drive(lambda send: send_all(send, concurrency, bodies))

    def measure(
        self, concurrency: int, bodies: Sequence[Body], warm_up: int | None = None
    ) -> Figures:
        """Send `warm_up` bodies (default: one per stream) without measuring, then measure all."""
        self.send_all(concurrency, bodies[: concurrency if warm_up is None else warm_up])
        return self.drive(lambda send: measure(send, self.pid, concurrency, bodies))

    def measure_chats(self, levels: Sequence[int], rounds: int, tokens: int) -> Loads:
        """Measure short chats at each level of concurrency, `rounds` per stream."""
        return {
            level: self.measure(level, chat_bodies(max(level, 2) * rounds, tokens))
            for level in levels
        }


# ---- bodies ----


def chat_body(question: str, tokens: int) -> Body:
    """A chat completion."""
    return {"messages": [{"role": "user", "content": question}], **_options(tokens)}


def chat_bodies(count: int, tokens: int) -> list[Body]:
    """Short questions, each with another number."""
    return [chat_body(f"Count to {number}.", tokens) for number in range(count)]


def completion_body(prompt: Sequence[int], tokens: int) -> Body:
    """A completion of token ids."""
    return {"prompt": prompt, **_options(tokens)}


def random_prompts(start: int, count: int, tokens: int, vocabulary: int) -> list[list[int]]:
    """Prompts of random token ids without a common prefix, so the prefix cache has no hits.

    Args:
        start: number of the first prompt; the same number makes the same prompt.
        vocabulary: size of the tokenizer; its last two tokens are special and left out.
    """
    return [
        random.Random(number).choices(range(vocabulary - 2), k=tokens)
        for number in range(start, start + count)
    ]


def _options(tokens: int) -> dict[str, Any]:
    return {
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
