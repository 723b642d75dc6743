"""A job's input → one request to the engine's app.

Four shapes are understood, the last of which is no single request (`handler/batch`):

    {"openai_route": "/v1/…", "openai_input": {…}}       what the platform's OpenAI route sends
    {"route": "…", "body": {…}, "method": "GET|POST"}    any allowed route, spelled out
    {"prompt" | "messages": …, "sampling_params": {…}, …}  the worker's native input
    {"batch": {"requests": […]} | {"url": "…"}}          many requests

A call over HTTP becomes the same request. Routes are allowed, not forwarded: the engine's app also
carries administrative ones. Which fields a body may have is the engine's to say; this module knows
none of their meanings, save for the few that the native input translates.
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
from handler.engine.usage import count_stream
from handler.errors import InputTooLarge, InvalidInput, MethodNotAllowed, UnknownModel, UnknownRoute
from handler.request.media import media
from handler.request.routes import GET, MULTIPART, POST, route_name, route_names
from handler.serve.batch import request
from handler.serve.batch.request import BatchRequest

QUEUE = "/run, /runsync, /status/ID, /stream/ID, /cancel/ID"  # over HTTP
MAX_BODY_BYTES = 30_000_000  # the platform's own limit on its load-balancing endpoints

GONE = {  # fields that other workers' native inputs had, and what to do instead
    "use_openai_format": "the answer always has the OpenAI format",
    "batch_size": "streams are paced by the worker",
    "min_batch_size": "streams are paced by the worker",
    "max_batch_size": "streams are paced by the worker",
    "batch_size_growth_factor": "streams are paced by the worker",
}


@dataclass(frozen=True)
class ParsedJob:
    """One job, understood.

    Attributes:
        id: the platform's id.
        request: what to ask the engine's app.
        native: whether a stream is yielded as merged chunk objects instead of SSE text.
    """

    id: str
    request: EngineRequest
    native: bool = False


class RequestParser:
    """Reads jobs for one served model and its adapters.

    Args:
        models: the names that jobs may use, the model's first.
        repository: the model's other name; jobs may use either, or none.
        request_fields: for each POST path the names that its body may carry.
        adapter_routes: the paths on which an adapter may be chosen, None for all.
        media_domains: where media may come from; none of them means anywhere public.
    """

    def __init__(
        self,
        models: Sequence[str],
        repository: str,
        request_fields: Mapping[str, frozenset[str]],
        adapter_routes: frozenset[str] | None = None,
        media_domains: frozenset[str] = frozenset(),
    ) -> None:
        self._media_domains = media_domains
        self._models = models
        self._default = models[0]
        self._repository = repository
        self._request_fields = request_fields
        self._adapter_routes = adapter_routes

    def read(self, job: Mapping[str, Any]) -> ParsedJob:
        """Understand a job.

        Raises:
            RequestError: with what was wrong and what would be right.
        """
        try:
            return self._understand(str(job.get("id", "")), job.get("input"))
        except UnicodeEncodeError as error:
            raise InvalidInput(
                "The input holds half a surrogate pair, which is no text."
            ) from error

    def batch(self, job: Mapping[str, Any]) -> BatchRequest | None:
        """Return the batch that a job is, None where it is a single request.

        Raises:
            RequestError: with what was wrong and what would be right.
        """
        data = job.get("input")
        return request.read(data) if isinstance(data, dict) and "batch" in data else None

    def read_http(
        self, method: str, path: str, query: str, body: bytes, content_type: str, request_id: str
    ) -> EngineRequest:
        """Understand a call over HTTP.

        Raises:
            RequestError: with what was wrong and what would be right.
        """
        name = route_name(path)
        if name not in POST and name not in GET:
            raise UnknownRoute(f"There is no route {path!r}. Routes: {route_names()}; {QUEUE}.")
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
            raise InvalidInput(f"the body is no JSON: {error}.", "body") from error
        if not isinstance(value, dict):
            raise InvalidInput(f"the body must be a JSON object, not {_kind(value)}.", "body")
        return self._post(request_id, POST[name], value, query)

    def _understand(self, job_id: str, data: object) -> ParsedJob:
        if not isinstance(data, dict):
            raise InvalidInput(f"input must be an object, not {_kind(data)}.", "input")
        if "openai_route" in data:
            request = self._routed(job_id, data["openai_route"], data.get("openai_input"), None)
        elif "route" in data:
            _no_more_than(data, ("route", "body", "method"))
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
            raise InvalidInput(f"route must be a text, not {_kind(route)}.", "route")
        if body is not None and not isinstance(body, dict):
            raise InvalidInput(f"the body must be a JSON object, not {_kind(body)}.", "body")
        name, _, query = route.partition("?")
        name = route_name(name)
        wanted = str(method).upper() if method else ("POST" if body else "GET")
        if name not in POST and name not in GET:
            raise UnknownRoute(f"There is no route {route!r}. Routes: {route_names()}.", "route")
        if wanted not in ("GET", "POST"):
            raise InvalidInput(f"method must be GET or POST, not {method!r}.", "method")
        if name in GET:
            if wanted != "GET":
                raise InvalidInput(f"{GET[name]} is a GET route and takes no body.", "route")
            return EngineRequest("GET", GET[name], query=_text(query), request_id=job_id)
        if wanted != "POST":
            raise InvalidInput(f"{POST[name]} is a POST route and needs a body.", "body")
        return self._post(job_id, POST[name], dict(body or {}), query)

    def _native(self, job_id: str, data: Mapping[str, Any]) -> EngineRequest:
        body = dict(data)
        sampling = body.pop("sampling_params", None) or {}
        if not isinstance(sampling, dict):
            raise InvalidInput(
                f"sampling_params must be an object, not {_kind(sampling)}.", "sampling_params"
            )
        template = body.pop("apply_chat_template", None)
        if "prompt" in body and "messages" in body:
            raise InvalidInput("Give prompt or messages, not both.", "prompt")
        if "messages" in body and template is False:
            raise InvalidInput(
                "messages always go through the chat template; give prompt to go without it.",
                "apply_chat_template",
            )
        if "prompt" in body and template:
            body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
        chat = "messages" in body
        body = {**(_chat_sampling(sampling) if chat else sampling), **body}
        path = POST["chat/completions" if chat else "completions"]
        self._refuse_unknown(path, body)
        if body.get("stream"):
            body.setdefault("stream_options", {"include_usage": True})
        return self._post(job_id, path, body, "")

    def _post(self, job_id: str, path: str, body: dict[str, Any], query: str) -> EngineRequest:
        body["model"] = self._model(body.get("model"), path)
        hides_count = count_stream(path, body)
        if path in MULTIPART:
            content, content_type = _multipart(body)
        else:
            content, content_type = _json(body), "application/json"
        if len(content) > MAX_BODY_BYTES:
            raise InputTooLarge(
                f"The body has {len(content)} bytes; {MAX_BODY_BYTES} are the most.", "body"
            )
        return EngineRequest(
            *("POST", path, content, content_type, _text(query), job_id),
            hides_count=hides_count,
            media=media(body, self._media_domains),
        )

    def _model(self, name: object, path: str) -> object:
        """Return the name of a model that is there; what is no text the engine judges."""
        if name in (None, "", self._repository):
            name = self._default
        if not isinstance(name, str):
            return name
        if name not in self._models:
            known = ", ".join(self._models)
            raise UnknownModel(f"The model `{name}` does not exist. Models: {known}.", "model")
        routes = self._adapter_routes
        if name != self._default and routes is not None and path not in routes:
            raise InvalidInput(
                f"{path} takes no adapter with this engine; {', '.join(sorted(routes))} do.",
                "model",
            )
        return name

    def _refuse_unknown(self, path: str, body: Mapping[str, Any]) -> None:
        """Native input is ours: a field that the engine does not have must not vanish in it."""
        known = self._request_fields.get(path)
        if known is None:
            return
        for name in body:
            if name in known:
                continue
            near = difflib.get_close_matches(name, known, n=1)
            if name in GONE:
                advice = f": {GONE[name]}; leave it out."
            else:
                advice = f": did you mean {near[0]!r}?" if near else "."
            raise InvalidInput(f"The engine has no field {name!r} on {path}{advice}", name)


def _chat_sampling(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the one field that sampling parameters and chat requests spell differently."""
    translated = dict(sampling)
    wanted = translated.get("logprobs")
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        translated |= {"logprobs": True, "top_logprobs": wanted}
    return translated


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except RecursionError as error:
        raise InvalidInput("The body is nested too deeply.", "body") from error


def _text(text: str) -> str:
    """Return the text if it can be sent, raise UnicodeEncodeError if not."""
    text.encode()
    return text


def _multipart(body: Mapping[str, Any]) -> tuple[bytes, str]:
    """Encode a body as a form; its `file` is base64 text, with or without a data URI's head."""
    fields = dict(body)
    text = fields.pop("file", None)
    if not isinstance(text, str):
        raise InvalidInput("file must be the audio file as base64 text.", "file")
    try:
        content = base64.b64decode(text.rpartition(",")[2], validate=True)
    except ValueError as error:
        raise InvalidInput(f"file is not base64: {error}.", "file") from error
    data = {name: v if isinstance(v, str) else json.dumps(v) for name, v in fields.items()}
    request = httpx.Request("POST", "http://worker", data=data, files={"file": content})
    return request.read(), request.headers["content-type"]


def _no_more_than(data: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in data:
        if name not in names:
            raise InvalidInput(f"{name!r} does not go beside route; give {', '.join(names)}.", name)


def _kind(value: object) -> str:
    kinds = {type(None): "nothing", str: "a text", list: "a list", bool: "a truth value"}
    return kinds.get(type(value), "an object" if isinstance(value, dict) else "a number")
