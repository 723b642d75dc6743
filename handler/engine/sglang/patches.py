"""What the worker asks of SGLang's app and what it mends there: its answers show paths and code."""

import asyncio
import contextlib
import importlib.metadata
import logging
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from handler.engine.pacing import FlushGate, Pacer

# The others would answer with the model itself.
ADAPTER_ROUTES = frozenset(
    ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/embeddings")
)


def version() -> str:
    """Return the engine's version."""
    return importlib.metadata.version("sglang")


def models(manager: Any) -> tuple[str, ...]:
    """Return the model's name and its adapters'."""
    adapters = manager.lora_registry.get_all_adapters() if manager.enable_lora else {}
    names = (str(adapter.lora_name) for adapter in adapters.values())
    return (str(manager.served_model_name), *names)


def ready_app(args: Any, name: str) -> Any:
    """Make SGLang's app ready for its lifespan, as its own launcher does, and mend its answers.

    Args:
        args: the engine's ServerArgs.
        name: the model's, as callers know it.
    """
    from sglang.srt.entrypoints import http_server
    from sglang.srt.entrypoints.openai import serving_base, serving_embedding
    from sglang.srt.managers import tokenizer_manager

    app = http_server.app
    app.is_single_tokenizer_mode = True
    app.server_args = args
    app.warmup_thread_kwargs = {
        "server_args": args,
        "launch_callback": None,
        "execute_warmup_func": lambda _: True,
    }
    # /v1/models shows an adapter's path as `root`: a path of this machine.
    card = http_server.ModelCard
    http_server.ModelCard = lambda **fields: card(**fields | {"root": fields["id"]})
    # So does an answer with embeddings.
    response = serving_embedding.EmbeddingResponse
    serving_embedding.EmbeddingResponse = lambda **fields: response(**fields | {"model": name})
    # It would have an adapter called by the model's name and its own, and answer in that name.
    serving_base.OpenAIServingBase._parse_model_parameter = lambda _, model: (
        name,
        None if model == name else model,
    )
    # An exception in its loop would kill this process, and with it the jobs' error.
    tokenizer_manager.kill_process_tree = lambda *_, **__: None
    # Its own tells callers the file and line of its code.
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_api_route("/version", lambda: {"version": version()})
    # It would post to the HTTP server that does not run here.
    http_server._freeze_gc_after_server_warmup = lambda _: None
    return app


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Answer a body that SGLang's models refuse, with the field at fault."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    named = [
        (".".join(str(part) for part in problem["loc"][1:]), problem["msg"]) for problem in problems
    ]
    said = "; ".join(dict.fromkeys(f"{where}: {why}" if where else why for where, why in named[:3]))
    more = f" (and {len(named) - 3} more)" if len(named) > 3 else ""
    failure = {
        "message": f"{said}{more}",
        "type": "BadRequestError",
        "param": named[0][0].split(".")[0] if named else None,
        "code": 400,
    }
    return JSONResponse({"error": failure}, 400)


GONE_SECONDS = 5.0


async def stop(engine: Any) -> None:
    """End the engine's processes and none of the worker's others, which its `shutdown` would."""
    manager = engine.tokenizer_manager
    if manager is not None:
        if manager._subprocess_watchdog is not None:
            manager._subprocess_watchdog._stop_event.set()
        tasks = list(manager.asyncio_tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    result = getattr(engine, "_scheduler_init_result", None)
    left = []
    for pid in result.all_child_pids if result else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            left += [process, *process.children(recursive=True)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=GONE_SECONDS)


@contextlib.contextmanager
def own_logging() -> Iterator[None]:
    """Keep the worker's log as it is: SGLang's set-up replaces the handlers of everybody."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def temporary_files() -> Iterator[None]:
    """Give SGLang's sockets and metrics files a folder that goes with it."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="sglang-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def paced(pacer: Pacer) -> type[Any]:
    """Return a state in place of `sglang.srt.managers.tokenizer_manager.ReqState`.

    Its event is set for each token; the consumer takes all that has been gathered since.
    """

    from sglang.srt.managers.tokenizer_manager import ReqState

    class PacedGate(FlushGate):
        def __init__(self, state: ReqState) -> None:
            super().__init__(pacer)
            self._state = weakref.proxy(state)  # which holds this gate

        def set(self) -> None:
            if self._state.finished or not getattr(self._state.obj, "stream", False):
                self.open()
            else:
                super().set()

    @dataclass
    class PacedState(ReqState):
        def __post_init__(self) -> None:
            self.event = PacedGate(self)

    return PacedState
