"""The engine routes that callers may use, and the reasons against the others.

Every route of both engines is in one of the tables here. tests/contract checks this, and fails when
a new engine version adds a route.
"""

import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from handler.errors import UnknownRoute

# Engine paths by route name, which has no prefix.
POST = {
    "chat/completions": "/v1/chat/completions",
    "chat/completions/batch": "/v1/chat/completions/batch",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "messages/count_tokens": "/v1/messages/count_tokens",
    "generate": "/generate",
    "embeddings": "/v1/embeddings",
    "v2/embed": "/v2/embed",
    "encode": "/encode",
    "pooling": "/pooling",
    "rerank": "/v1/rerank",
    "v2/rerank": "/v1/rerank",
    "score": "/v1/score",
    "generative_scoring": "/generative_scoring",
    "decisions": "/v1/decisions",
    "systemone": "/v1/systemone",
    "classify": "/classify",
    "audio/transcriptions": "/v1/audio/transcriptions",
    "audio/translations": "/v1/audio/translations",
    "tokenize": "/tokenize",
    "detokenize": "/detokenize",
}
GET = {
    "models": "/v1/models",
    "health": "/health",
    "version": "/version",
    "metrics": "/metrics",
}
# Paths that have another meaning than the same route name above, in an engine with both.
OTHER_MEANINGS = {"v1/classify": "/v1/classify"}
FORMS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
NAMES = ", ".join([*POST, *GET, "models/ID"])
HTTP_NAMES = (
    f"{NAMES}, responses/ID, responses/ID/cancel; "
    "/run, /runsync, /status/ID, /stream/ID, /cancel/ID"
)

MODEL = re.compile(r"models/(.+)")
RESPONSE = re.compile(r"responses/\w[\w.-]*(/cancel)?", re.ASCII)

ADMINISTRATION = "it changes the engine for all callers"
INSPECTION = "it shows the setup of the machine and the engine; use models, version or metrics"
STATE = "it keeps state in one worker, and the next request may reach another worker"
SPLIT_ENGINE = "it is for an engine whose parts run on several machines"
OTHER_PLATFORM = (
    "it is the request format of another platform; use the route itself, such as {chat}"
)
OLLAMA = "it uses Ollama's protocol, whose streams are not server-sent events; use {chat}"
TEXT_TOOL = "{chat} already does this with the model's output"
DOCUMENTATION = "it documents routes that callers cannot reach"
RESPONSES_OF_A_WORKER = (
    "a response is stored in the worker that created it, and a job may reach any worker; call that "
    "worker over HTTP"
)

# Reasons by path.
REFUSED = {
    path: reason.format(chat="/v1/chat/completions")
    for reason, paths in {
        ADMINISTRATION: (
            # vLLM
            "/abort_requests /collective_rpc /fault_tolerance/apply /finish_weight_update "
            "/init_weight_transfer_engine /pause /release_kv_cache_memory /reset_encoder_cache "
            "/reset_mm_cache /reset_prefix_cache /resume /scale_elastic_ep "
            "/shutdown_weight_transfer_engine /sleep /start_draft_weight_update /start_profile "
            "/start_weight_update /stop_profile /update_weight_version /update_weights "
            "/v1/load_lora_adapter /v1/unload_lora_adapter /wake_up /weight_checker "
            # SGLang
            "/abort_request /add_external_corpus /begin_weight_update /configure_logging "
            "/continue_generation /destroy_weights_update_group "
            "/dump_expert_distribution_record /end_weight_update /flush_cache /freeze_gc "
            "/hicache/storage-backend /hicache/storage-backend/clear "
            "/init_weights_send_group_for_remote_instance /init_weights_update_group "
            "/load_lora_adapter /load_lora_adapter_from_tensors /pause_generation "
            "/pd_role_switch /release_memory_occupation /remove_external_corpus "
            "/register_transfer_engine_info /resume_memory_occupation "
            "/send_weights_to_remote_instance /set_internal_state /set_trace_level /slow_down "
            "/start_expert_distribution_record /stop_expert_distribution_record "
            "/unload_lora_adapter /update_weights_from_disk /update_weights_from_distributed "
            "/update_weights_from_ipc /update_weights_from_tensor /weights_checker"
        ),
        INSPECTION: (
            "/fault_tolerance/status /get_world_size /is_paused /is_scaling_elastic_ep "
            "/is_sleeping /kv_event_sources /load /ready /readyz /server_info /tokenizer_info "
            "/weight_info /get_hicache_l3_cache_layout /get_model_info "
            "/get_remote_instance_transfer_engine_info /get_server_info "
            "/get_transfer_engine_info /get_weights_by_name /dumper /health_generate "
            "/list_external_corpora /model_info /remote_instance_transfer_engine_info /v1/loads "
            "/ping"
        ),
        STATE: "/open_session /close_session",
        SPLIT_ENGINE: (
            "/inference/v1/abort_requests /inference/v1/generate /v1/chat/completions/render "
            "/v1/chat/completions/derender /v1/completions/render /v1/completions/derender "
            "/v1/messages/render /v1/responses/render /cohere/v2/chat/render"
        ),
        OTHER_PLATFORM: "/invocations /vertex_generate /cohere/v2/chat",
        OLLAMA: "/api/chat /api/generate /api/show /api/tags",
        TEXT_TOOL: "/parse_function_call /separate_reasoning",
        DOCUMENTATION: "/docs /openapi.json /redoc /static",
        "it needs a WebSocket, which this worker does not support": "/v1/realtime",
    }.items()
    for path in paths.split()
}


@dataclass(frozen=True)
class Route:
    """A route of the engine's app.

    Attributes:
        path: the engine's path.
        model: the model id of `models/ID`, None for the whole list.
        has_body: whether a POST has a body.
    """

    method: Literal["GET", "POST"]
    path: str
    model: str | None = None
    has_body: bool = True


def find_route(path: str, engine_paths: Container[str] = (), *, in_job: bool) -> Route:
    """Return the route for a path with any known prefix.

    Args:
        path: without a query string.
        engine_paths: the POST paths of the engine.
        in_job: whether the path is from a job or a batch line, not from an HTTP call.

    Raises:
        UnknownRoute: there is no such route, or callers may not use it; the text has the reason.
    """
    name = route_name(path)
    other = OTHER_MEANINGS.get(_without_slashes(path))
    if other is not None and other in engine_paths:
        return Route("POST", other)
    if name in POST:
        return Route("POST", POST[name])
    if name in GET:
        return Route("GET", GET[name])
    if found := MODEL.fullmatch(name):
        return Route("GET", GET["models"], unquote(found[1]) if in_job else found[1])
    reason = _refused_reason(path)
    if reason is None and (found := RESPONSE.fullmatch(name)):
        if not in_job:
            return Route("POST" if found[1] else "GET", f"/v1/{name}", has_body=False)
        reason = RESPONSES_OF_A_WORKER
    if reason is not None:
        raise UnknownRoute(f"{path} is not for callers: {reason}.", "route" if in_job else None)
    names = NAMES if in_job else HTTP_NAMES
    raise UnknownRoute(f"There is no route {path!r}. Routes: {names}.", "route" if in_job else None)


def route_label(path: str) -> str:
    """Return the metrics label of an engine path, with ID in place of a response id."""
    if found := RESPONSE.fullmatch(route_name(path)):
        return f"/v1/responses/ID{found[1] or ''}"
    return path


def route_name(path: str) -> str:
    """Return the route name of a path with any known prefix, as in the tables above."""
    return _without_slashes(path).removeprefix("v1/")


def is_anthropic(path: str) -> bool:
    """Whether a path belongs to Anthropic's API."""
    return route_name(path).partition("/")[0] == "messages"


def default_route(body: object) -> str:
    """Return the path for an OpenAI body without a route."""
    given = {name for name, value in body.items() if value} if isinstance(body, dict) else set()
    is_completion = "prompt" in given and "messages" not in given
    return POST["completions" if is_completion else "chat/completions"]


def path_of_input(data: object) -> str | None:
    """Return the engine's path for a job's input, or None if it has no known route."""
    if not isinstance(data, dict):
        return None
    given = {name for name, value in data.items() if value is not None}
    route = data.get("openai_route") or data.get("route") or None
    if route is None and "openai_input" in given:
        route = default_route(data["openai_input"])
    elif route is None and "messages" in given:
        route = "chat/completions"
    elif route is None and given & {"prompt", "text", "input_ids"}:
        route = "completions"
    if not isinstance(route, str):
        return None
    try:
        return find_route(route.partition("?")[0], in_job=True).path
    except UnknownRoute:
        return None


def _without_slashes(path: str) -> str:
    """Return a path without the slashes and prefixes of base URLs, such as `/openai/v1/v1`."""
    plain = "/".join(part for part in path.split("/") if part).removeprefix("openai/")
    if plain.startswith("api/v1/"):
        plain = plain.removeprefix("api/")
    while plain.startswith("v1/v1/"):
        plain = plain.removeprefix("v1/")
    return plain


def _refused_reason(path: str) -> str | None:
    """Return why callers may not use a path or its parent, or None if it is not in REFUSED."""
    plain = _without_slashes(path)
    while plain:
        if reason := REFUSED.get(f"/{plain}") or REFUSED.get(f"/v1/{plain}"):
            return reason
        plain = plain.rpartition("/")[0]
    return None
