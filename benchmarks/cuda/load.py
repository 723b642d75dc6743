"""So many answers at once, whoever writes them: tokens per second, and when each token came."""

import asyncio
import math
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from benchmarks.processes import cpu_seconds

Prompt = list[int]
Ask = Callable[[Prompt, int], AsyncIterator[int]]
"""Ask for an answer of so many tokens: at each flush the number of tokens that it says it holds.

A way that learns the number at the end only gives 0 until then.
"""


@dataclass(frozen=True)
class Load:
    """What was measured at one number of streams.

    Attributes:
        streams: answers at once.
        answers: of which the figures are.
        tokens_per_second: written, of all streams together.
        first_token_p50_seconds: from asking to the first flush.
        first_token_p99_seconds: the slowest hundredth; of fewer than 100 answers the slowest.
        inter_token_p50_seconds: median over the answers of the mean time between two tokens.
        flushes_per_answer: how often the caller was given something.
        cpu_ms_per_token: of this process and those below it.
    """

    streams: int
    answers: int
    tokens_per_second: float
    first_token_p50_seconds: float
    first_token_p99_seconds: float
    inter_token_p50_seconds: float
    flushes_per_answer: float
    cpu_ms_per_token: float


@dataclass(frozen=True)
class Answer:
    """When one answer came, in seconds from asking for it.

    Attributes:
        first_seconds: until the first flush.
        last_seconds: until the last.
        flushes: how many.
    """

    first_seconds: float
    last_seconds: float
    flushes: int


async def measure(ask: Ask, prompts: Sequence[Prompt], streams: int, tokens: int) -> Load:
    """Keep `streams` answers running until every prompt has its answer of `tokens` tokens.

    Raises:
        RuntimeError: an answer has another number of tokens.
    """
    waiting = iter(prompts)
    answers: list[Answer] = []

    async def user() -> None:
        for prompt in waiting:
            # In a task of its own, as the Runpod SDK runs each job.
            answers.append(await asyncio.create_task(_answer(ask, prompt, tokens)))

    cpu, began = cpu_seconds(os.getpid()), time.monotonic()
    await asyncio.gather(*(user() for _ in range(streams)))
    seconds, used = time.monotonic() - began, cpu_seconds(os.getpid()) - cpu
    first = [answer.first_seconds for answer in answers]
    between = [(answer.last_seconds - answer.first_seconds) / (tokens - 1) for answer in answers]
    written = len(answers) * tokens
    return Load(
        streams=streams,
        answers=len(answers),
        tokens_per_second=written / seconds,
        first_token_p50_seconds=statistics.median(first),
        first_token_p99_seconds=p99(first),
        inter_token_p50_seconds=statistics.median(between),
        flushes_per_answer=statistics.mean(answer.flushes for answer in answers),
        cpu_ms_per_token=used / written * 1000,
    )


async def _answer(ask: Ask, prompt: Prompt, tokens: int) -> Answer:
    began = time.monotonic()
    first = last = 0.0
    written = flushes = 0
    async for count in ask(prompt, tokens):
        last = time.monotonic() - began
        first = first or last
        written += count
        flushes += 1
    if written != tokens:
        raise RuntimeError(f"an answer of {tokens} tokens was asked for, it has {written}")
    return Answer(first, last, flushes)


def prompts(start: int, count: int, tokens: int, vocabulary: int) -> list[Prompt]:
    """Return prompts of random tokens, none with the beginning of another: no prefix is cached.

    Args:
        start: the first prompt's number; the same number is the same prompt.
        count: how many.
        tokens: of each.
        vocabulary: the tokenizer's size; its last two tokens, which are special, are left out.
    """
    return [
        random.Random(number).choices(range(vocabulary - 2), k=tokens)
        for number in range(start, start + count)
    ]


def p99(values: Sequence[float]) -> float:
    """Return the nearest rank: a value that was measured, never one beyond the largest."""
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]
