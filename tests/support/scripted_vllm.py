"""vLLM without its engine core: what the model writes, in which steps, is said by the test.

Everything else is real: the worker, vLLM's app and its parsers, `AsyncLLM` and its output
processor. The core cannot be used here, because no model writes a given text in given steps.
"""

import asyncio
import copy
import itertools
import logging
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handler.engine.pacing import Pacer
from handler.engine.runtime import EngineRuntime
from handler.request.parse import RequestParser
from handler.serve.worker import NoFrontEnd, Worker
from handler.startup.timings import StartupTimings
from tests.support.environment import MODELS, NAME
from tests.support.streamed_answers import events, plain_choices, streamed_choices
from tests.support.vllm_adapter import checked_vllm_adapter

MAX_TURNS = 1000  # of the loop, until a consumer that was woken has run
NO_FLUSH = 1e-6  # flushes per second: a stream is flushed when the test says so


@dataclass(frozen=True)
class Step:
    """What one step of the engine brings.

    Attributes:
        tokens: of one choice; several with speculation.
        flush: whether the stream's flush is due after the step.
        choice: index of the choice, with n > 1.
        last: whether the model has ended.
    """

    tokens: Sequence[int]
    flush: bool
    choice: int = 0
    last: bool = False


class ScriptedCore:
    """Stands for the client of vLLM's engine core."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.script: Sequence[Step] = ()
        self.choices = 1
        self.engine_ranks_managed = [0]
        self.resources = SimpleNamespace(engine_dead=False)
        self._requests: list[Any] = []
        self._steps: asyncio.Queue[tuple[str, Step, Any]] = asyncio.Queue()
        self._flushed: str | None = None

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        self.loop = asyncio.get_running_loop()
        return ("generate",)

    async def reset_mm_cache_async(self) -> None:
        pass

    async def abort_requests_async(self, ids: Sequence[str]) -> None:
        pass

    async def collective_rpc_async(self, *_: object, **__: object) -> list[Any]:
        return [[("device", 0.0, 0.0)]]

    def shutdown(self, timeout: float | None = None) -> None:
        pass

    async def add_request_async(self, request: Any) -> None:
        """Begin with the script when all choices are there."""
        self._requests.append(request)
        if len(self._requests) == self.choices:
            requests, self._requests = self._requests, []
            for step in self.script:
                request = requests[step.choice]
                logprobs = request.sampling_params.num_logprobs is not None
                self._steps.put_nowait((request.request_id, step, logprobs))

    async def get_output_async(self) -> Any:
        """Return the next step, after the flush of the one before."""
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

        if self._flushed is not None:
            await self._flush(self._flushed)
        request_id, step, logprobs = await self._steps.get()
        self._flushed = request_id if step.flush else None
        output = EngineCoreOutput(
            request_id,
            list(step.tokens),
            new_logprobs=_logprobs(step.tokens) if logprobs else None,
            finish_reason=FinishReason.STOP if step.last else None,
        )
        return EngineCoreOutputs(outputs=[output])

    async def _flush(self, request_id: str) -> None:
        """Open the stream's gate, and let its consumer take the tokens, unless it has failed."""
        states = self.engine.output_processor.request_states
        for _ in range(MAX_TURNS):
            state = states.get(request_id)
            if state is None or not state.queue.aggregate or not state.queue._pending:
                return
            state.queue.ready.open()
            await asyncio.sleep(0)


def _logprobs(tokens: Sequence[int]) -> Any:
    """One candidate a token, whose probability follows from the token."""
    import numpy
    from vllm.v1.outputs import LogprobsLists

    ids = numpy.array([[token, token] for token in tokens])
    values = numpy.array([[-(token % 97) / 8] * 2 for token in tokens], dtype=numpy.float32)
    return LogprobsLists(ids, values, numpy.ones(len(tokens), dtype=int))


class ScriptedVllm:
    """A worker with a scripted vLLM, asked job by job."""

    def __init__(self, runtime: EngineRuntime, adapter: Any, core: ScriptedCore) -> None:
        running = runtime.wait_until_up()
        self._runtime, self._adapter, self._core = runtime, adapter, core
        self._app: Any = running.app
        self._engine = core.engine = self._app.state.engine_client
        self._worker = Worker(
            runtime,
            RequestParser(running.models, adapter.served_model_name, {}),
            max_jobs=1,
            front_end=NoFrontEnd(),
        )
        self._numbers = itertools.count()
        self.tokenizer: Any = self._engine.renderer.tokenizer

    def use_parsers(self, tool_call: str | None = None, reasoning: str | None = None) -> None:
        """Make vLLM's app anew, with these parsers."""
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state

        args = copy.copy(self._adapter._args)
        args.tool_call_parser, args.enable_auto_tool_choice = tool_call, tool_call is not None
        args.structured_outputs_config = copy.copy(args.structured_outputs_config)
        args.structured_outputs_config.reasoning_parser = reasoning or ""
        args.reasoning_parser = reasoning or ""
        made = init_app_state(self._engine, self._app.state, args, ("generate",))
        asyncio.run_coroutine_threadsafe(made, self._core.loop).result(60)

    def outputs(self, job_input: Any, script: Sequence[Step], choices: int = 1) -> list[Any]:
        """Return what a job yields while the engine follows a script."""
        self._core.script, self._core.choices = script, choices

        async def run() -> list[Any]:
            job = {"id": f"job-{next(self._numbers)}", "input": job_input}
            return [output async for output in self._worker.handle(job)]

        return asyncio.run(run())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def end(self) -> int:
        """Return the token that ends a text."""
        end: int = self.tokenizer.eos_token_id
        return end


def tokenizer_with(folder: Path, tokens: Sequence[str], special: Sequence[str]) -> Path:
    """Write the demo model's tokenizer with more tokens; `special` ones are not text."""
    from transformers import AddedToken, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODELS / f"{NAME}-bf16")
    tokenizer.add_tokens([AddedToken(token, special=token in special) for token in tokens])
    tokenizer.save_pretrained(folder)
    shutil.copy(MODELS / f"{NAME}-bf16" / "config.json", folder)
    return folder


@contextmanager
def scripted_vllm(tokenizer: Path) -> Iterator[ScriptedVllm]:
    """Start a worker whose engine core is scripted, and undo what it replaces in vLLM."""
    adapter = checked_vllm_adapter(
        MODELS / f"{NAME}-bf16", VLLM_LOGGING_LEVEL="ERROR", TOKENIZER_NAME=str(tokenizer)
    )
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.model_executor.models import registry
    from vllm.parser import ParserManager
    from vllm.v1.engine import async_llm, output_processor, utils
    from vllm.v1.engine.core_client import EngineCoreClient

    core = ScriptedCore()
    with pytest.MonkeyPatch.context() as patch, _root_logger_restored():
        for owner, name in (
            (OpenAIServingModels, "show_available_models"),
            (registry, "_run_in_subprocess"),
            (ParserManager, "get_parser"),
            (async_llm, "RequestOutputCollector"),
            (output_processor, "RequestState"),
            (utils, "get_mp_context"),
        ):
            patch.setattr(owner, name, owner.__dict__[name])  # what it is now, when all is undone
        patch.setattr(adapter, "check_flags", lambda: None)  # it is done
        patch.setattr(EngineCoreClient, "make_async_mp_client", lambda **_: core)
        pacer = Pacer(max_flushes_per_second=NO_FLUSH)
        with EngineRuntime(lambda: None, pacer, StartupTimings(0.0)) as runtime:
            runtime.check_flags(adapter)
            yield ScriptedVllm(runtime, adapter, core)


@contextmanager
def _root_logger_restored() -> Iterator[None]:
    level = logging.root.level
    try:
        yield
    finally:
        logging.root.setLevel(level)


# ---- how an output comes


def one_by_one(tokens: Sequence[int], choice: int = 0) -> list[Step]:
    """Each token in a step of its own, and each is flushed."""
    return ended([Step([token], flush=True, choice=choice) for token in tokens])


def cut(tokens: Sequence[int], seed: object, choice: int = 0) -> list[Step]:
    """Steps of several tokens, as speculation brings them, of which some are flushed."""
    chance = random.Random(str(seed))
    most, flushed = chance.choice([1, 1, 2, 4, 8]), chance.choice([0, 0.1, 0.3, 0.6])
    steps: list[Step] = []
    begin = 0
    while begin < len(tokens):
        end = begin + chance.randint(1, most)
        steps.append(Step(tokens[begin:end], chance.random() < flushed, choice))
        begin = end
    return ended(steps)


def ended(steps: Sequence[Step]) -> list[Step]:
    """Return the steps, of which the last ends the text."""
    last = steps[-1]
    return [*steps[:-1], Step(last.tokens, last.flush, last.choice, last=True)]


def tokens_of(vllm: ScriptedVllm, text: str) -> list[int]:
    """Return the tokens of a whole answer."""
    return [*vllm.encode(text), vllm.end()]


def job(body: Any, stream: bool, route: str = "/v1/chat/completions") -> Any:
    """Return the input of a job on the OpenAI route."""
    return {"openai_route": route, "openai_input": {**body, "stream": stream}}


def plain_answer(vllm: ScriptedVllm, text: str, body: Any) -> Any:
    """Return what a plain chat answers, when the model writes a text."""
    [answer] = vllm.outputs(job(body, stream=False), one_by_one(tokens_of(vllm, text)))
    return plain_choices(answer)[0]


def streamed_answer(vllm: ScriptedVllm, body: Any, steps: Sequence[Step]) -> Any:
    """Return what the stream of a chat says in the end."""
    return streamed_choices(events(vllm.outputs(job(body, stream=True), steps)))[0]
