"""The engine alone: vLLM's `AsyncLLM` driven directly, on the event loop that its server uses.

`benchmarks.gpu` starts this as a process: python -m benchmarks.cuda.engine SPECIFICATION RESULT
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

import uvloop

from benchmarks.cuda import case as gpu_case
from benchmarks.cuda.case import LEAST_ANSWERS, ROUNDS, Measured, Specification, found
from benchmarks.cuda.load import Ask, Prompt, measure, prompts

SEED_TOKENS = 16
FIRST_SEED = 1_000_000  # the number of no other prompt


def run_engine(given: Specification, measured: Measured) -> None:
    """Start the engine, measure, stop it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_drive(given, measured))


async def _drive(given: Specification, measured: Measured) -> None:
    engine = _start(given, measured)
    try:
        measured.note("quantization", engine.model_config.quantization)
        ask = _asking(engine)
        await gpu_case.measure_all(ask, given, measured)
        await _measure_repetitive(engine, ask, given, measured)
    finally:
        engine.shutdown()


def _start(given: Specification, measured: Measured) -> Any:
    """Return an `AsyncLLM`; its configuration is noted apart where it can be."""
    arguments_class, engine_class = found("AsyncEngineArgs"), found("AsyncLLM")
    imported = time.time()
    measured.note("stages.imports", imported - given.started_at)
    arguments = arguments_class(model=given.model, **given.flags)
    config_seconds = _timed(arguments, "create_engine_config")
    engine = engine_class.from_engine_args(arguments)
    config = sum(config_seconds) if config_seconds else None
    measured.note("stages.config", config)
    measured.note("stages.engine", time.time() - imported - (config or 0.0))
    return engine


def _timed(target: Any, method: str) -> list[float]:
    """Have the object's method add the seconds of each call to the list that is returned."""
    seconds: list[float] = []
    call = getattr(target, method)

    def timed(*arguments: Any, **more: Any) -> Any:
        began = time.time()
        try:
            return call(*arguments, **more)
        finally:
            seconds.append(time.time() - began)

    setattr(target, method, timed)
    return seconds


def _asking(engine: Any) -> Ask:
    numbers = itertools.count()

    async def ask(prompt: Prompt, tokens: int) -> AsyncIterator[int]:
        async for written in _generate(engine, prompt, tokens, f"ask-{next(numbers)}"):
            yield len(written)

    return ask


async def _generate(engine: Any, prompt: Prompt, tokens: int, name: str) -> AsyncIterator[Prompt]:
    sampling = found("SamplingParams")(
        max_tokens=tokens,
        ignore_eos=True,
        temperature=0.0,
        output_kind=found("RequestOutputKind").DELTA,
    )
    async for output in engine.generate({"prompt_token_ids": prompt}, sampling, name):
        yield list(output.outputs[0].token_ids)


async def _measure_repetitive(
    engine: Any, ask: Ask, given: Specification, measured: Measured
) -> None:
    """Measure answers that repeat their prompt: what speculation with n-grams is there for.

    A model with weights at random does not copy. But its next token follows all but only from the
    last one: a prompt that it has written itself, and that ends in its own beginning, is one that
    it goes on to repeat. That is the best case of such speculation, not a usual one.
    """
    seed = FIRST_SEED
    for streams in given.repetitive:
        count = max(streams * ROUNDS, LEAST_ANSWERS)
        seeds = prompts(seed, count, SEED_TOKENS, given.vocabulary)
        seed += count
        again = given.prompt_tokens // 4
        once = given.prompt_tokens - again
        texts = await asyncio.gather(*(_text(engine, seed, once) for seed in seeds))
        before = _speculation()
        asked = [text + text[:again] for text in texts]
        load = await measure(ask, asked, streams, given.answer_tokens)
        after = _speculation()
        counted = {name: after[name] - before[name] for name in after}
        measured.note(f"repetitive.{streams}", asdict(load) | acceptance(counted))


async def _text(engine: Any, seed: Prompt, tokens: int) -> Prompt:
    name = f"text-{seed}"
    return [token async for written in _generate(engine, seed, tokens, name) for token in written]


def _speculation() -> dict[str, float]:
    """Return vLLM's counters of speculation; 0 for one that this engine does not keep."""
    from prometheus_client import REGISTRY

    samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
    return {
        name: sum(s.value for s in samples if s.name == f"vllm:spec_decode_num_{name}_total")
        for name in ("drafts", "draft_tokens", "accepted_tokens")
    }


def acceptance(counted: Mapping[str, float]) -> dict[str, float | None]:
    """Return what became of the drafts, None without any.

    Args:
        counted: how far the counters `drafts`, `draft_tokens` and `accepted_tokens` went.
    """
    drafts, drafted = counted["drafts"], counted["draft_tokens"]
    accepted = counted["accepted_tokens"]
    return {
        "accepted_share": accepted / drafted if drafted else None,
        "tokens_per_draft": 1 + accepted / drafts if drafts else None,
    }


if __name__ == "__main__":
    gpu_case.run(run_engine)
