"""A job's input, or an HTTP call, turned into one request to the engine's app.

Three input shapes are a single request (a fourth, `batch`, is many: `handler/serve/batch`):

    {"openai_route": "/v1/…", "openai_input": {…}}         what the platform's OpenAI route sends
    {"route": "…", "body": {…}, "method": "GET|POST"}      any allowed route
    {"prompt" | "messages": …, "sampling_params": {…}, …}  the worker's native input

Routes are allowed, not forwarded: the engine's app also has administrative ones. The engine knows
which fields a body may have; only the native input translates a few.
"""

import base64
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from handler.engine.interface import EngineRequest
from handler.engine.usage import include_usage
from handler.errors import (
    InputTooLarge,
    InvalidInput,
    MethodNotAllowed,
    UnknownModel,
    UnknownRoute,
)
from handler.request.media import find_media
from handler.request.routes import GET, MULTIPART, NAMES, POST, route_name

HTTP_JOB_ROUTES = "/run, /runsync, /status/ID, /stream/ID, /cancel/ID"
MAX_BODY_BYTES = 30_000_000  # the platform's limit on its load-balancing endpoints

# Fields that other workers' native inputs had → what to do instead.
REMOVED_FIELDS = {
    "use_openai_format": "the output always has the OpenAI format",
    "batch_size": "the worker paces streams",
    "min_batch_size": "the worker paces streams",
    "max_batch_size": "the worker paces streams",
    "batch_size_growth_factor": "the worker paces streams",
}


@dataclass(frozen=True)
class ParsedJob:
    """One job that is a single request.

    Attributes:
        id: the platform's.
        request: to the engine's app.
        native: whether a stream is yielded as merged chunk objects instead of SSE text.
    """

    id: str
    request: EngineRequest
    native: bool = False


class RequestParser:
    """Parses requests for one served model and its LoRA adapters.

    Args:
        models: the names that requests may use, the model's first.
        repository: another name of the model; requests may use either, or none.
        request_fields: for each POST path the field names that its body may carry.
        adapter_routes: the paths on which a LoRA adapter may be chosen, None for all.
        media_domains: where media may be fetched from; empty for anywhere public.
        aliases: further names of the model.
    """

    def __init__(
        self,
        models: Sequence[str],
        repository: str,
        request_fields: Mapping[str, frozenset[str]],
        adapter_routes: frozenset[str] | None = None,
        media_domains: frozenset[str] = frozenset(),
        aliases: Sequence[str] = (),
    ) -> None:
        self._models = models
        self._default_model = models[0]
        self._repository = repository
        self._request_fields = request_fields
        self._adapter_routes = adapter_routes
        self._media_domains = media_domains
        self._aliases = aliases

    def parse_job(self, job: Mapping[str, Any]) -> ParsedJob:
        """Parse a job that is a single request.

        Raises:
            RequestError: what is wrong and what would be right.
        """
        try:
            return self._job(str(job.get("id", "")), job.get("input"))
        except UnicodeEncodeError as error:
            raise InvalidInput("The input holds half a surrogate pair.") from error

    def parse_http(
        self,
        *,
        method: str,
        path: str,
        query: str,
        body: bytes,
        content_type: str,
        request_id: str,
    ) -> EngineRequest:
        """Parse a call over HTTP.

        Raises:
            RequestError: what is wrong and what would be right.
        """
        name = route_name(path)
        if name not in POST and name not in GET:
            raise UnknownRoute(f"There is no route {path!r}. Routes: {NAMES}; {HTTP_JOB_ROUTES}.")
        allowed = "GET" if name in GET else "POST"
        if method != allowed:
            raise MethodNotAllowed(path, method, allowed)
        if method == "GET":
            return EngineRequest("GET", GET[name], query=query, request_id=request_id)
        if POST[name] in MULTIPART and content_type.startswith("multipart/form-data"):
            return EngineRequest("POST", POST[name], body, content_type, query, request_id)
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"The body is not JSON: {error}.", "body") from error
        if not isinstance(value, dict):
            raise InvalidInput(f"The body must be a JSON object, got {json_type(value)}.", "body")
        return self._post(request_id, POST[name], value, query)

    def _job(self, job_id: str, data: object) -> ParsedJob:
        if not isinstance(data, dict):
            raise InvalidInput(f"input must be a JSON object, got {json_type(data)}.", "input")
        if "openai_route" in data:
            request = self._routed(job_id, data["openai_route"], data.get("openai_input"), None)
        elif "route" in data:
            for name in data:
                if name not in ("route", "body", "method"):
                    raise InvalidInput(
                        f"{name!r} is not allowed beside route; give route, body, method.", name
                    )
            request = self._routed(job_id, data["route"], data.get("body"), data.get("method"))
        elif "prompt" in data or "messages" in data:
            return ParsedJob(job_id, self._native(job_id, data), native=True)
        else:
            raise InvalidInput(
                "input needs openai_route with openai_input, route with body, prompt, messages, "
                "or batch.",
                "input",
            )
        return ParsedJob(job_id, request)

    def _routed(self, job_id: str, route: object, body: object, method: object) -> EngineRequest:
        if not isinstance(route, str):
            raise InvalidInput(f"route must be a string, got {json_type(route)}.", "route")
        if body is not None and not isinstance(body, dict):
            raise InvalidInput(f"The body must be a JSON object, got {json_type(body)}.", "body")
        name, _, query = route.partition("?")
        name = route_name(name)
        verb = str(method).upper() if method else ("POST" if body else "GET")
        if name not in POST and name not in GET:
            raise UnknownRoute(f"There is no route {route!r}. Routes: {NAMES}.", "route")
        if verb not in ("GET", "POST"):
            raise InvalidInput(f"method must be GET or POST, got {method!r}.", "method")
        if name in GET:
            if verb != "GET":
                raise InvalidInput(f"{GET[name]} is a GET route and takes no body.", "route")
            return EngineRequest("GET", GET[name], query=_encodable(query), request_id=job_id)
        if verb != "POST":
            raise InvalidInput(f"{POST[name]} is a POST route and needs a body.", "body")
        return self._post(job_id, POST[name], dict(body or {}), query)

    def _native(self, job_id: str, data: Mapping[str, Any]) -> EngineRequest:
        body = dict(data)
        sampling = body.pop("sampling_params", None) or {}
        if not isinstance(sampling, dict):
            raise InvalidInput(
                f"sampling_params must be a JSON object, got {json_type(sampling)}.",
                "sampling_params",
            )
        apply_template = body.pop("apply_chat_template", None)
        if "prompt" in body and "messages" in body:
            raise InvalidInput("Give prompt or messages, not both.", "prompt")
        if "messages" in body and apply_template is False:
            raise InvalidInput(
                "messages always go through the chat template; give prompt to go without it.",
                "apply_chat_template",
            )
        if "prompt" in body and apply_template:
            body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
        is_chat = "messages" in body
        body = {**(_chat_sampling(sampling) if is_chat else sampling), **body}
        path = POST["chat/completions" if is_chat else "completions"]
        self._refuse_unknown_fields(path, body)
        if body.get("stream"):
            body.setdefault("stream_options", {"include_usage": True})
        return self._post(job_id, path, body, "")

    def _post(self, job_id: str, path: str, body: dict[str, Any], query: str) -> EngineRequest:
        body["model"] = self._model(body.get("model"), path)
        hide_usage = include_usage(path, body)
        if path in MULTIPART:
            content, content_type = _multipart(body)
        else:
            content, content_type = _json(body), "application/json"
        if len(content) > MAX_BODY_BYTES:
            raise InputTooLarge(
                f"The body has {len(content)} bytes; the limit is {MAX_BODY_BYTES}.", "body"
            )
        media = find_media(body, self._media_domains)
        return EngineRequest(
            method="POST",
            path=path,
            body=content,
            content_type=content_type,
            query=_encodable(query),
            request_id=job_id,
            hide_usage=hide_usage,
            prepare_body=media.inline_into if media else None,
        )

    def _model(self, name: object, path: str) -> object:
        """Return the served name; the engine judges what is not a string."""
        if name in (None, "", self._repository, *self._aliases):
            name = self._default_model
        if not isinstance(name, str):
            return name
        if name not in self._models:
            known = ", ".join(dict.fromkeys((*self._models, *self._aliases)))
            raise UnknownModel(f"The model `{name}` does not exist. Models: {known}.", "model")
        routes = self._adapter_routes
        if name != self._default_model and routes is not None and path not in routes:
            raise InvalidInput(
                f"{path} takes no LoRA adapter with this engine; {', '.join(sorted(routes))} do.",
                "model",
            )
        return name

    def _refuse_unknown_fields(self, path: str, body: Mapping[str, Any]) -> None:
        """Refuse a field of the native input that the engine would ignore."""
        known = self._request_fields.get(path)
        if known is None:
            return
        for name in body:
            if name in known:
                continue
            near = difflib.get_close_matches(name, known, n=1)
            if name in REMOVED_FIELDS:
                advice = f": {REMOVED_FIELDS[name]}; leave it out."
            else:
                advice = f": did you mean {near[0]!r}?" if near else "."
            raise InvalidInput(f"The engine has no field {name!r} on {path}{advice}", name)


def json_type(value: object) -> str:
    """Return what a decoded JSON value is, with its article."""
    if isinstance(value, dict):
        return "an object"
    names = {type(None): "null", str: "a string", list: "a list", bool: "a boolean"}
    return names.get(type(value), "a number")


def _chat_sampling(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the one field that sampling parameters and chat requests spell differently."""
    translated = dict(sampling)
    logprobs = translated.get("logprobs")
    if isinstance(logprobs, int) and not isinstance(logprobs, bool):
        translated |= {"logprobs": True, "top_logprobs": logprobs}
    return translated


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except RecursionError as error:
        raise InvalidInput("The body is nested too deeply.", "body") from error


def _encodable(text: str) -> str:
    """Return the text, or raise UnicodeEncodeError if it cannot be sent."""
    text.encode()
    return text


def _multipart(body: Mapping[str, Any]) -> tuple[bytes, str]:
    """Encode a body as a form; its `file` is base64, with or without the head of a data URI."""
    fields = dict(body)
    text = fields.pop("file", None)
    if not isinstance(text, str):
        raise InvalidInput("file must be the audio file in base64.", "file")
    try:
        content = base64.b64decode(text.rpartition(",")[2], validate=True)
    except ValueError as error:
        raise InvalidInput(f"file is not base64: {error}.", "file") from error
    data = {name: v if isinstance(v, str) else json.dumps(v) for name, v in fields.items()}
    request = httpx.Request("POST", "http://worker", data=data, files={"file": content})
    return request.read(), request.headers["content-type"]
