"""What the worker replaces in SGLang, and which internal names it reads.

tests/contract/test_sglang.py has a test for each row. All rows are needed since 0.5.23; older
versions were not checked.

Replaced by `apply` before the engine starts:

managers.tokenizer_manager.ReqState
    A stream's consumer is woken when its next flush is due, not for each token, which makes
    MAX_POSTS_PER_SECOND hold: 1.2 times the tokens/s and 0.6 of the POSTs at 192 streams
    (docs/benchmarks.md). Until SGLang merges by time: its `stream_interval` counts tokens. It saves
    more CPU, a third with 8, and can be set as well.
entrypoints.openai.serving_chat.OpenAIServingChat._generate_chat_stream,
entrypoints.openai.serving_responses.OpenAIServingResponses._generate_with_builtin_tools
    A parser of tool calls or of reasoning gets each token of a stream alone (parsed_streams.py):
    with several at once it loses calls, arguments and the border between reasoning and text.
    Without a parser, tokens without text keep their logprobs.
    Until SGLang's parsers take any delta, and until it sends all logprobs.
entrypoints.engine.Engine.run_scheduler_process_func
    A scheduler's process replaces the next names by `run_scheduler`. Until those can go.
managers.scheduler.get_exception_traceback, in a scheduler's process
    The exception that ends the process is reported to the worker (failed_start/report.py) with the
    step of the start (STEPS); SGLang only logs it. Until the error in the worker's process has the
    scheduler's own.
constrained.base_grammar_backend.BaseGrammarBackend.__init__: .executor, .cache,
constrained.xgrammar_backend.GrammarCompiler, in the scheduler's process
    Constraints are compiled in fewer threads, behind those of the engine, and few are kept
    (grammars.py). Until SGLang bounds them.
loggers of constrained.* and of managers.schedule_batch, in the scheduler's process
    A line about a constraint that is refused has its text, a part of a caller's request
    (grammars.py). Until SGLang logs no constraint.
entrypoints.engine.Engine.run_detokenizer_process_func
    The detokenizer's process replaces the next name by `run_detokenizer`. Until that one can go.
managers.detokenizer_manager.DecodeStatus, in the detokenizer's process
    Some text is sent twice if a step has several tokens and ends within a character
    (detokenizer.py). Until SGLang sends each character once.
managers.tokenizer_manager.kill_process_tree
    An exception in its loop would kill the worker before its jobs get an error.
    Until SGLang raises in an embedded engine.
entrypoints.http_server.ModelCard
    /v1/models shows an adapter's path on this machine as `root`. Until it shows names.
entrypoints.http_server.ModelList
    /v1/models lists all names of the model. Until SGLang takes several.
entrypoints.openai.serving_embedding.EmbeddingResponse
    `model` is the model's path on this machine. Until it is the served model name.
entrypoints.openai.serving_base.OpenAIServingBase._parse_model_parameter
    A LoRA adapter is chosen by the name that /v1/models lists; SGLang expects `model:adapter`,
    and splits each name at a colon. Until it accepts the names that it lists.
entrypoints.openai.serving_completions.OpenAIServingCompletion._build_sampling_params
    A completion with max_tokens equal to the context length may fill the context, like a chat
    without max_tokens. SGLang refuses it, because the prompt needs tokens too. Until it accepts
    completions without a limit.
http_server.app's handler of RequestValidationError
    SGLang's response shows the file and line of its code. Until it has the reason only.

Set on its app by `prepared_app`, as `http_server.launch_server` does:

http_server.set_global_state, http_server._GlobalState, app.is_single_tokenizer_mode,
app.server_args, app.warmup_thread_kwargs, TokenizerManager.server_status
    Only SGLang's launcher prepares the app, and it runs a server. The warm-up function returns
    False, because what follows it posts to that server. Until SGLang makes an app for an engine.

Read or called, not replaced:

ServerArgs.add_cli_args, .from_cli_args, .resolve_once (flags.py, adapter.py)
    The flags, and SGLang's own check of them before the start. Until public names have them.
Engine._scheduler_init_result: scheduler_infos, all_child_pids; Engine.get_all_child_pids
    KV cache and timings of the schedulers; the processes to watch and to stop. Until public names
    have them.
ServerArgs._raw_input; arg_groups.overrides.resolved_view, .model_config_of (configuration.py)
    What the user has set and what SGLang has made of it, for a second start with less. Until
    public names have them.
TokenizerManager._subprocess_watchdog, .asyncio_tasks
    `Engine.shutdown` kills all children of the worker, so `stop` ends these itself. Until it ends
    its own only.
environ.envs.SGLANG_TOOL_STRICT_LEVEL
    Whether tools that the model need not call are compiled. Until a flag or an argument has it.
TokenizerManager.get_internal_state, .context_len, .is_generation, .served_model_name,
.enable_lora, .lora_registry
    Capacity, kind of model, names. Until public names have them.
tempfile.tempdir, handlers of the root logger
    SGLang writes to the folder and replaces the handlers. Until it removes its files and leaves
    the root logger.
"""

import asyncio
import contextlib
import functools
import logging
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

import psutil
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from handler.engine.failed_start.report import DEVICE, GRAPHS, KV_CACHE, WEIGHTS, report
from handler.engine.pacing import FlushGate, Pacer
from handler.engine.sglang.detokenizer import append_only_status
from handler.engine.sglang.grammars import bound_grammars, keep_constraints_out_of_logs
from handler.engine.sglang.parsed_streams import chat_by_token, response_by_token
from handler.engine.sglang.platform import version

STOP_TIMEOUT_SECONDS = 5.0
STEPS = {  # method of SGLang's model runner → step of the start
    "init_torch_distributed": DEVICE,
    "load_model": WEIGHTS,
    "alloc_memory_pool": KV_CACHE,
    "init_attention_backends": GRAPHS,
    "init_cuda_graphs": GRAPHS,
    "prewarm_sampling": GRAPHS,
}


def apply(pacer: Pacer, model_name: str, aliases: Sequence[str] = ()) -> None:
    """Replace names of SGLang in this process; call it once, before the engine is made.

    `aliases` are further names of the model, which the worker translates in requests.
    """
    from sglang.srt.entrypoints import http_server
    from sglang.srt.entrypoints.engine import Engine
    from sglang.srt.entrypoints.openai import (
        serving_base,
        serving_chat,
        serving_completions,
        serving_embedding,
        serving_responses,
    )
    from sglang.srt.managers import tokenizer_manager

    tokenizer_manager.ReqState = _paced_state(pacer)
    chat, responses = serving_chat.OpenAIServingChat, serving_responses.OpenAIServingResponses
    chat._generate_chat_stream = chat_by_token(chat._generate_chat_stream)
    responses._generate_with_builtin_tools = response_by_token(
        responses._generate_with_builtin_tools
    )
    Engine.run_scheduler_process_func = staticmethod(run_scheduler)
    Engine.run_detokenizer_process_func = staticmethod(run_detokenizer)
    tokenizer_manager.kill_process_tree = lambda *_, **__: None
    card, response = http_server.ModelCard, serving_embedding.EmbeddingResponse
    http_server.ModelCard = lambda **fields: card(**fields | {"root": fields["id"]})
    model_list = http_server.ModelList
    http_server.ModelList = lambda data: model_list(
        data=[*data[:1], *(data[0].model_copy(update=_name(name)) for name in aliases), *data[1:]]
    )
    serving_embedding.EmbeddingResponse = lambda **fields: response(
        **fields | {"model": model_name}
    )
    serving_base.OpenAIServingBase._parse_model_parameter = lambda _, model: (
        model_name,
        None if model == model_name else model,
    )
    completion = serving_completions.OpenAIServingCompletion
    completion._build_sampling_params = _without_context_limit(completion._build_sampling_params)
    http_server.app.add_exception_handler(RequestValidationError, _validation_error)
    http_server.app.add_api_route("/version", lambda: {"version": version()})


def run_scheduler(*arguments: Any, **named: Any) -> None:
    """Run a scheduler; SGLang calls this in the process of each rank."""
    from sglang.srt.managers import scheduler

    traceback = scheduler.get_exception_traceback

    def reported_traceback() -> str:
        if (error := sys.exception()) is not None:
            report(error, _step(error))
        return str(traceback())

    scheduler.get_exception_traceback = reported_traceback
    bound_grammars()
    keep_constraints_out_of_logs()
    scheduler.run_scheduler_process(*arguments, **named)


def _step(error: BaseException) -> str:
    """Return the step of the start in which an error was raised, from its traceback."""
    frames = walk_tb(error.__traceback__)
    return next((STEPS[name] for frame, _ in frames if (name := frame.f_code.co_name) in STEPS), "")


def run_detokenizer(*arguments: Any, **named: Any) -> None:
    """Run the detokenizer; SGLang calls this in its detokenizer process."""
    from sglang.srt.managers import detokenizer_manager

    detokenizer_manager.DecodeStatus = append_only_status()
    detokenizer_manager.run_detokenizer_process(*arguments, **named)


def _name(name: str) -> dict[str, str]:
    return {"id": name, "root": name}


def prepared_app(engine: Any, args: Any) -> Any:
    """Return SGLang's app, ready for its lifespan, as its own launcher prepares it."""
    from sglang.srt.entrypoints import http_server

    http_server.set_global_state(
        http_server._GlobalState(
            tokenizer_manager=engine.tokenizer_manager,
            template_manager=engine.template_manager,
            scheduler_info=scheduler_info(engine),
        )
    )
    app = http_server.app
    app.is_single_tokenizer_mode = True
    app.server_args = args
    app.warmup_thread_kwargs = {
        "server_args": args,
        "execute_warmup_func": functools.partial(_finish_warmup, engine.tokenizer_manager),
    }
    return app


def _finish_warmup(manager: Any, _: Any) -> bool:
    """Report the server as up, and skip the warm-up request to a server that does not run."""
    from sglang.srt.managers.tokenizer_manager import ServerStatus

    manager.server_status = ServerStatus.Up
    return False


def scheduler_info(engine: Any) -> Any:
    """Return the KV cache and the timings that the first scheduler reports."""
    return engine._scheduler_init_result.scheduler_infos[0]


def model_names(manager: Any) -> tuple[str, ...]:
    """Return the names of the model and its LoRA adapters."""
    adapters = manager.lora_registry.get_all_adapters() if manager.enable_lora else {}
    names = (str(adapter.lora_name) for adapter in adapters.values())
    return (str(manager.served_model_name), *names)


def constrains_tools() -> bool:
    """Whether SGLANG_TOOL_STRICT_LEVEL constrains the calls of tools that are not strict."""
    from sglang.srt.environ import envs

    return bool(envs.SGLANG_TOOL_STRICT_LEVEL.get())


def _without_context_limit(build_sampling_params: Any) -> Any:
    """Remove a limit that equals the context length, which SGLang would refuse."""

    def replacement(self: Any, request: Any) -> Any:
        params = build_sampling_params(self, request)
        if params["max_new_tokens"] == self.tokenizer_manager.context_len:
            params["max_new_tokens"] = None
        return params

    return replacement


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    """Answer an invalid body with the names of the invalid fields."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    reasons = [
        (".".join(str(part) for part in problem["loc"][1:]), problem["msg"]) for problem in problems
    ]
    shown = [f"{field}: {reason}" if field else reason for field, reason in reasons[:3]]
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    body = {
        "message": "; ".join(dict.fromkeys(shown)) + more,
        "type": "BadRequestError",
        "param": reasons[0][0].split(".")[0] if reasons else None,
        "code": 400,
    }
    return JSONResponse({"error": body}, 400)


async def stop(engine: Any) -> None:
    """End the engine's processes; SGLang's own `shutdown` kills all children of the worker."""
    manager = engine.tokenizer_manager
    if manager is not None:
        if manager._subprocess_watchdog is not None:
            manager._subprocess_watchdog.stop()
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
    psutil.wait_procs(left, timeout=STOP_TIMEOUT_SECONDS)


@contextlib.contextmanager
def own_logging() -> Iterator[None]:
    """Keep the worker's logging: SGLang replaces the handlers of the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def temporary_files() -> Iterator[None]:
    """Put SGLang's sockets and metrics files into a folder that is removed at the end."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="sglang-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _paced_state(pacer: Pacer) -> type[Any]:
    """Return a `ReqState` whose consumer is woken when a flush is due, and then gets all tokens."""
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
