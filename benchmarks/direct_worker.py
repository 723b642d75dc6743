"""The worker around the engine, for `benchmarks.direct`: everything but SDK, platform and HTTP."""

import argparse
import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from benchmarks.devices import command_line
from benchmarks.direct import DirectRun, ResultFile, measure_loads
from benchmarks.load import Body, Response
from benchmarks.vllm_names import vllm_object
from handler.engine.capacity import Capacity
from handler.engine.interface import RunningEngine
from handler.engine.pacing import Pacer
from handler.engine.runtime import EngineRuntime
from handler.request.parse import RequestParser
from handler.serve.worker import NoFrontEnd, Worker
from handler.startup.timings import StartupTimings

MODEL = "model"


class AnyVllmAdapter:
    """The worker's adapter for any release of vLLM; see `EngineAdapter`.

    The worker's own adapter knows vLLM from 0.30 on. This one builds the app in the same steps
    from wherever the installed release has them.
    """

    name = "vllm"
    served_model_name = MODEL
    forks = 0

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._parser = argparse.ArgumentParser()
        self._parsed = argparse.Namespace()

    def prepare(self) -> None:
        pass

    def import_engine(self) -> None:
        self._parser = vllm_object("make_arg_parser")(vllm_object("FlexibleArgumentParser")())

    def check_flags(self) -> None:
        self._parsed = self._parser.parse_args(list(self._arguments))
        vllm_object("validate_parsed_serve_args")(self._parsed)

    def configuration(self) -> None:
        """Return None: a benchmark has no second start."""

    @asynccontextmanager
    async def start(self, pacer: Pacer) -> AsyncIterator[RunningEngine]:
        from handler.engine.vllm import patches

        parsed = self._parsed
        patches.pace_streams(pacer)
        async with vllm_object("build_async_engine_client")(parsed) as engine:
            tasks = await engine.get_supported_tasks()
            app = vllm_object("build_app")(parsed, tasks, engine.model_config)
            await vllm_object("init_app_state")(engine, app.state, parsed, tasks)
            app.state.server = SimpleNamespace(should_exit=False)
            async with app.router.lifespan_context(app):
                yield RunningEngine(
                    app=app,
                    capacity=Capacity(parsed.max_num_seqs, kv_cache_tokens=0, max_model_tokens=0),
                    alive=lambda: not engine.errored,
                    models=(MODEL,),
                )


def run_worker(run: DirectRun, result: ResultFile) -> None:
    """Start the engine on its own thread and measure from this one, as on the platform."""
    own_imports = time.time() - run.started_at
    arguments = command_line({"model": run.model, "served_model_name": MODEL, **run.vllm_args})
    timings = StartupTimings(run.started_at)
    adapter = AnyVllmAdapter(arguments)
    with EngineRuntime(adapter.import_engine, Pacer(), timings) as runtime:
        runtime.check_flags(adapter)
        running = runtime.wait_until_up()
        seconds = {stage.name: stage.seconds for stage in timings}
        result.add("stages.imports", own_imports + seconds["imports"] + seconds["flags"])
        result.add("stages.engine", seconds["engine"])
        worker = Worker(
            runtime,
            RequestParser(running.models, MODEL, {}),
            max_jobs=running.capacity.max_sequences,
            front_end=NoFrontEnd(),
        )
        numbers = itertools.count()

        async def send(body: Body) -> Response:
            job_input = {"openai_route": "/v1/completions", "openai_input": dict(body)}
            job = {"id": f"job-{next(numbers)}", "input": job_input}
            # A task of its own, as the SDK makes for each job.
            return await asyncio.create_task(_answer(worker.handle(job)))

        asyncio.run(measure_loads(send, run, result))


async def _answer(outputs: AsyncIterator[Any]) -> Response:
    response = Response()
    pieces: list[str] = []
    began = time.monotonic()
    async for output in outputs:
        if not isinstance(output, str):
            raise RuntimeError(f"a job failed: {output}")
        response.flush_seconds.append(time.monotonic() - began)
        pieces.append(output)
    response.end_seconds = time.monotonic() - began
    response.messages = len(pieces)
    response.count("".join(pieces))
    return response
