"""Engine or worker in the measuring process itself: no SDK, no platform, no HTTP.

`engine` drives vLLM's `AsyncLLM`. `worker` adds what this project puts around it: the engine's
thread, the in-process call of vLLM's app, pacing, and the worker's generator. The output is read at
once, so pacing sees a round trip of zero.

The result file is rewritten after each step, so a killed run leaves its results so far.
"""

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import load
from benchmarks.load import Body, Response, Send, completion_body, random_prompts
from benchmarks.vllm_names import vllm_object

WARM_UP_TOKENS = 8
MIN_REQUESTS = 8
SEED_TOKENS = 16
FIRST_SEED = 1_000_000  # above the number of any other prompt
COUNTERS = ("drafts", "draft_tokens", "accepted_tokens")


@dataclass(frozen=True)
class DirectRun:
    """What one process measures.

    Attributes:
        target: "engine" or "worker".
        model: folder of the checkpoint.
        vocabulary: tokens of its tokenizer.
        vllm_args: fields of vLLM's engine arguments.
        started_at: start of the process, in seconds since the epoch.
        prompt_tokens, output_tokens: of each request.
        rounds: requests of each stream.
        concurrency: levels for random prompts; none to measure only the start.
        repeating: levels for prompts that the model has generated itself.
    """

    target: str
    model: str
    vocabulary: int
    vllm_args: Mapping[str, Any]
    started_at: float
    prompt_tokens: int
    output_tokens: int
    rounds: int
    concurrency: Sequence[int] = ()
    repeating: Sequence[int] = ()

    def requests(self, concurrency: int) -> int:
        """How many requests are measured at a level."""
        return max(concurrency * self.rounds, MIN_REQUESTS)

    def bodies(self, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[Body]:
        """Requests with these prompts."""
        return [completion_body(prompt, tokens or self.output_tokens) for prompt in prompts]


class ResultFile:
    """Results so far, by dotted names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {}

    def add(self, name: str, value: object) -> None:
        """Keep a value; `a.b` is the field b of the object a."""
        *outer, last = name.split(".")
        into = self._found
        for part in outer:
            into = into.setdefault(part, {})
        into[last] = value
        written = self._path.with_suffix(".new")
        written.write_text(json.dumps(self._found))
        written.replace(self._path)


async def measure_loads(send: Send, run: DirectRun, result: ResultFile) -> None:
    """Measure the first token after the start, then the load at each level of concurrency."""
    prompts = (
        random_prompts(number, 1, run.prompt_tokens, run.vocabulary)[0]
        for number in itertools.count()
    )
    began = time.time()
    [first] = await load.send_all(send, 1, run.bodies([next(prompts)]))
    result.add("stages.first_token", first.flush_seconds[0])
    result.add("stages.total", began + first.flush_seconds[0] - run.started_at)
    for concurrency in run.concurrency:
        warm_up = run.bodies(list(itertools.islice(prompts, concurrency)), WARM_UP_TOKENS)
        await load.send_all(send, concurrency, warm_up)
        bodies = run.bodies(list(itertools.islice(prompts, run.requests(concurrency))))
        measured = await load.measure(send, os.getpid(), concurrency, bodies)
        result.add(f"load.{concurrency}", measured)


# ---- the engine alone ----


class EngineClient:
    """Sends requests to vLLM's `AsyncLLM`."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._numbers = itertools.count()

    async def send(self, body: Body) -> Response:
        """Send one request and note when its tokens come."""
        response = Response(prompt_tokens=len(body["prompt"]))
        began = time.monotonic()
        async for token_ids in self._generate(body):
            response.flush_seconds.append(time.monotonic() - began)
            response.completion_tokens += len(token_ids)
        response.end_seconds = response.flush_seconds[-1]
        response.messages = len(response.flush_seconds)
        return response

    async def write(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """Return the token ids that follow a prompt."""
        pieces = self._generate(completion_body(prompt, tokens))
        return [token async for token_ids in pieces for token in token_ids]

    async def _generate(self, body: Body) -> AsyncIterator[list[int]]:
        sampling = vllm_object("SamplingParams")(
            max_tokens=body["max_tokens"],
            ignore_eos=True,
            temperature=0.0,
            output_kind=vllm_object("RequestOutputKind").DELTA,
        )
        prompt, request_id = {"prompt_token_ids": body["prompt"]}, f"request-{next(self._numbers)}"
        async for output in self._engine.generate(prompt, sampling, request_id):
            yield list(output.outputs[0].token_ids)


def run_engine(run: DirectRun, result: ResultFile) -> None:
    """Start vLLM's engine on the event loop that its server uses, measure, and stop it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure_engine(run, result))


async def _measure_engine(run: DirectRun, result: ResultFile) -> None:
    args_class, engine_class = vllm_object("AsyncEngineArgs"), vllm_object("AsyncLLM")
    imported = time.time()
    result.add("stages.imports", imported - run.started_at)
    engine = engine_class.from_engine_args(args_class(model=run.model, **run.vllm_args))
    result.add("stages.engine", time.time() - imported)
    client = EngineClient(engine)
    try:
        result.add("quantization", engine.model_config.quantization)
        await measure_loads(client.send, run, result)
        await _measure_repeating(client, run, result)
    finally:
        engine.shutdown()


async def _measure_repeating(client: EngineClient, run: DirectRun, result: ResultFile) -> None:
    """Measure prompts that the model keeps repeating: the best case of n-gram speculation.

    A model with random weights does not copy, but its next token depends almost only on the last
    one: it repeats a prompt that it has generated itself and that ends with its own beginning.
    """
    seed = FIRST_SEED
    for concurrency in run.repeating:
        count = run.requests(concurrency)
        seeds = random_prompts(seed, count, SEED_TOKENS, run.vocabulary)
        seed += count
        repeated = run.prompt_tokens // 4
        texts = await asyncio.gather(
            *(client.write(prompt, run.prompt_tokens - repeated) for prompt in seeds)
        )
        before = _speculation_counters()
        bodies = run.bodies([text + text[:repeated] for text in texts])
        measured = await load.measure(client.send, os.getpid(), concurrency, bodies)
        after = _speculation_counters()
        drafts = acceptance(*(after[name] - before[name] for name in COUNTERS))
        result.add(f"repeating.{concurrency}", dict(measured) | drafts)


def _speculation_counters() -> dict[str, float]:
    """vLLM's counters of speculation in this process; 0 where there is none."""
    from prometheus_client import REGISTRY

    samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
    return {
        name: sum(s.value for s in samples if s.name == f"vllm:spec_decode_num_{name}_total")
        for name in COUNTERS
    }


def acceptance(drafts: float, drafted: float, accepted: float) -> dict[str, float | None]:
    """Shares from the increase of the three counters; None without a draft."""
    return {
        "acceptance_ratio": accepted / drafted if drafted else None,
        "tokens_per_step": 1 + accepted / drafts if drafts else None,
    }
