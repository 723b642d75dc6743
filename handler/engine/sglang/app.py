"""What the worker asks of SGLang's app and what it mends there: its answers show paths and code."""

import importlib.metadata
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

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
