"""One start of an engine, as the worker starts it, and what was observed.

    python -m tests.contract.live vllm|sglang

It is a process of its own, because an engine starts only once in a process. The last line of stdout
has the observations as JSON, for the tests of the engine.
"""

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial

import psutil

from handler.engine.interface import EngineRequest
from handler.engine.runtime import EngineRuntime
from handler.engine.sglang.adapter import SglangAdapter
from handler.engine.vllm.adapter import VllmAdapter
from handler.model.resolve import export_environment, resolve_model
from handler.settings.environ import load_settings
from tests.support.engine_fields import ENGINE_FIELDS
from tests.support.environment import NAME, ROOT, START_SECONDS, VARIANT, worker_environment

ADAPTERS = {"vllm": VllmAdapter, "sglang": SglangAdapter}
ABORT_TIMEOUT_SECONDS = 3  # the whole stream takes several times as long


def start(engine):
    """Return the observations of one start; call it in the engine's Python environment."""
    name = f"{NAME}-{VARIANT[engine]}"
    environment = worker_environment(VARIANT[engine], engine, SERVED_MODEL_NAME=f"{name},small")
    command = [sys.executable, "-m", __name__, engine]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=START_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def main(engine):
    warnings = Warnings()
    logging.getLogger("handler").addHandler(warnings)
    settings = load_settings(os.environ)
    model = resolve_model(settings)
    export_environment(model)
    adapter = ADAPTERS[engine](settings, model, os.environ)
    adapter.prepare()
    before = handlers()
    with EngineRuntime(partial(adapter.import_engine, settings, os.environ)) as host:
        host.check_flags(adapter)
        running = host.wait_until_up()
        seen = {
            "new_signal_handlers": sorted(n for n, h in handlers().items() if h != before[n]),
            "capacity": asdict(running.capacity),
            "models": running.models,
            "alive": running.alive(),
            "generates": running.generates,
            "paths": sorted(paths_of(running.app)),
            "fields": {
                path: sorted(running.request_fields[path]) for path in ENGINE_FIELDS[engine]
            },
            "internals": INTERNALS[engine](running.app),
        }
        seen |= asyncio.run(
            requests(host, running.app, OPEN_REQUESTS[engine], adapter.served_model_name)
        )
    seen["processes_left"] = [p.name() for p in psutil.Process().children(recursive=True)]
    seen["warnings"] = warnings.lines
    print("\n" + json.dumps(seen))


def paths_of(app):
    """Return the paths of an app, of its routers and of what is mounted on it."""
    for route in app.routes:
        if hasattr(route, "path"):
            yield route.path
        else:  # a router that was included
            yield from paths_of(route.original_router)


def handlers():
    return {number.name: signal.getsignal(number) for number in signal.Signals}


class Warnings(logging.Handler):
    """Keeps the worker's warnings, such as that of an engine that did not stop cleanly."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


async def requests(host, app, open_requests, model):
    """Leave a stream after its first bytes, and see whether the engine drops the request."""
    listed = json.loads(await read(host, EngineRequest("GET", "/v1/models")))["data"]
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 8000, "ignore_eos": True}
    async with host.prepare_call(post(body | {"stream": True})) as exchange:
        first = await exchange.read()
        meanwhile = open_requests(app)
    left = time.monotonic()
    while open_requests(app) and time.monotonic() - left < ABORT_TIMEOUT_SECONDS:
        await asyncio.sleep(0.01)
    open_after = open_requests(app)
    # Gauges of the engine's processes are refreshed by a step of the scheduler.
    await read(host, post(body | {"max_tokens": 1}))
    metrics = await read(host, EngineRequest("GET", "/metrics"))
    running = re.search(rb"^(?:vllm:num_requests|sglang:num)_running.*} (\S+)$", metrics, re.M)
    return {
        "roots": {card["id"]: card["root"] for card in listed},
        "streamed": first.startswith(b"data: {"),
        "open_meanwhile": meanwhile,
        "open_after": open_after,
        "running_after": float(running[1]),
    }


def post(body):
    return EngineRequest("POST", "/v1/completions", json.dumps(body).encode())


async def read(host, request):
    async with host.prepare_call(request) as exchange:
        parts = [part async for part in parts_of(exchange)]
    assert exchange.status == 200, parts
    return b"".join(parts)


async def parts_of(exchange):
    while part := await exchange.read():
        yield part


def open_requests_of_vllm(app):
    return app.state.engine_client.output_processor.get_num_unfinished_requests()


def open_requests_of_sglang(_):
    from sglang.srt.entrypoints.http_server import get_global_state

    return len(get_global_state().tokenizer_manager.rid_to_state)


def internals_of_vllm(app):
    engine, serving = app.state.engine_client, app.state.openai_serving_models
    return {
        "errored": engine.errored,
        "model_config": type(engine.model_config).__name__,
        "lora_requests": serving.lora_requests,
        "should_exit": app.state.server.should_exit,
    }


def internals_of_sglang(_):
    from sglang.srt.entrypoints.http_server import get_global_state

    manager = get_global_state().tokenizer_manager
    return {
        "lora_registry": type(manager.lora_registry).__name__,
        "asyncio_tasks": sorted({type(task).__name__ for task in manager.asyncio_tasks}),
        "_subprocess_watchdog": type(manager._subprocess_watchdog).__name__,
        "server_status": manager.server_status.value,
    }


OPEN_REQUESTS = {"vllm": open_requests_of_vllm, "sglang": open_requests_of_sglang}
INTERNALS = {"vllm": internals_of_vllm, "sglang": internals_of_sglang}

if __name__ == "__main__":
    main(sys.argv[1])
