"""This project's worker around the engine, without the platform: app, `Exchange`, pacing, `Worker`.

`benchmarks.gpu` starts this as a process: python -m benchmarks.cuda.worker SPECIFICATION RESULT

The worker's own adapter knows vLLM from 0.30 on. `AnyVersion` stands in for it and takes vLLM's
app from wherever this version has it, in the same steps; all else is what runs on the platform.
Nobody takes time to read what is yielded, so that the round trip the pacing sees is nought.
"""

import argparse
import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from benchmarks.cuda import case as gpu_case
from benchmarks.cuda.case import Measured, Specification, found
from benchmarks.cuda.load import Ask, Prompt
from handler.engine.interface import Capacity, RunningEngine
from handler.engine.pacing import Pacer
from handler.engine.runtime import EngineRuntime
from handler.request.parse import RequestParser
from handler.serve.worker import Worker
from handler.startup.timings import StartupTimings

NAME = "model"
WRITTEN = re.compile(r'"completion_tokens":\s*(\d+)')


class AnyVersion:
    """vLLM's engine and app, whichever release; see `handler.engine.interface.EngineAdapter`.

    Args:
        arguments: vLLM's command line.
    """

    name = "vllm"
    served_model_name = NAME
    forks = False

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._parsed = argparse.Namespace()

    def prepare(self) -> None:
        """Nothing, as with the worker's own adapter."""

    def check(self) -> None:
        """Import vLLM and have it parse its flags."""
        parser = found("make_arg_parser")(found("FlexibleArgumentParser")())
        self._parsed = parser.parse_args(self._arguments)
        found("validate_parsed_serve_args")(self._parsed)

    @asynccontextmanager
    async def running(self, pacer: Pacer) -> AsyncIterator[RunningEngine]:
        """Start the engine and build the app, with the worker's paced streams."""
        from handler.engine.vllm import patches

        parsed = self._parsed
        patches.apply(pacer, is_cpu=False, forks=False)
        async with found("build_async_engine_client")(parsed) as engine:
            tasks = await engine.get_supported_tasks()
            app = found("build_app")(parsed, tasks, engine.model_config)
            await found("init_app_state")(engine, app.state, parsed, tasks)
            app.state.server = SimpleNamespace(should_exit=False)
            async with app.router.lifespan_context(app):
                yield RunningEngine(
                    app=app,
                    capacity=Capacity(parsed.max_num_seqs, kv_cache_tokens=0, max_model_tokens=0),
                    alive=lambda: not engine.errored,
                    models=(NAME,),
                )


def command_line(model: str, flags: Mapping[str, Any]) -> list[str]:
    """Spell engine arguments as flags: numbers and texts as they are, objects as JSON."""
    given = {"model": model, "served_model_name": NAME, **flags}
    return [
        f"--{name.replace('_', '-')}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in given.items()
    ]


def run_worker(given: Specification, measured: Measured) -> None:
    """Start the engine on the host's thread and measure from this one, as on the platform."""
    own_imports = time.time() - given.started_at
    adapter = AnyVersion(command_line(given.model, given.flags))
    stages = StartupTimings(given.started_at)
    with EngineRuntime(adapter, Pacer(), stages) as host:
        running = host.wait_until_up()
        took = {stage.name: stage.seconds for stage in stages}
        measured.note("stages.imports", own_imports + took["imports"])
        measured.note("stages.engine", took["engine"])
        measured.note("app", found("build_app").__module__)
        worker = Worker(host, RequestParser(running.models, NAME, {}), None)
        asyncio.run(gpu_case.measure_all(_asking(worker), given, measured))


def _asking(worker: Worker) -> Ask:
    numbers = itertools.count()

    async def ask(prompt: Prompt, tokens: int) -> AsyncIterator[int]:
        async for output in worker.handle(_job(next(numbers), prompt, tokens)):
            if not isinstance(output, str):
                raise RuntimeError(f"a job went wrong: {output}")
            yield sum(map(int, WRITTEN.findall(output)))

    return ask


def _job(number: int, prompt: Prompt, tokens: int) -> dict[str, Any]:
    body = {
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return {
        "id": f"job-{number}",
        "input": {"openai_route": "/v1/completions", "openai_input": body},
    }


if __name__ == "__main__":
    gpu_case.run(run_worker)
