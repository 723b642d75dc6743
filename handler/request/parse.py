"""The parser of job inputs and HTTP calls; the result is one request to the engine's app.

Input shapes of a single request (`batch` is in `handler/serve/batch`):

    {"openai_route": "/v1/…", "openai_input": {…}}         the platform's OpenAI route
    {"openai_input": {…}}                                  a chat, or a completion with `prompt`
    {"route": "/v1/…", "body": {…}, "method": "GET|POST"}  any allowed route
    {"prompt" | "messages" | …: …, …}                      native input, see `native`

A null field counts as absent. Only the routes in `routes` are allowed: the engine's app also has
administrative ones. `client_defaults` and `unknown_fields` change the fields of a body.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handler.engine.call.usage import include_usage
from handler.engine.interface import EngineRequest
from handler.errors import InvalidInput, MethodNotAllowed, UnknownModel
from handler.request.body import encode_body, http_fields
from handler.request.body_limits import BodyLimits
from handler.request.client_defaults import merge_extra_body, replace_defaults, without_nulls
from handler.request.json_text import check_nesting, json_type, shown
from handler.request.limits import RequestLimits
from handler.request.native import MAX_TOKENS, is_native, native_request
from handler.request.routes import FORMS, POST, Route, default_route, find_route
from handler.request.sglang_input import sglang_body, takes_sglang_input
from handler.request.unknown_fields import FieldTranslator

ROUTE_FIELDS = ("route", "body", "method")
MAX_UNCHECKED_ITEMS = 32  # the engine's error names each invalid one, some in 450 kB
ROUTE_NAMES = ("openai_route", "route")


@dataclass(frozen=True)
class ParsedJob:
    """A job with a single request.

    Attributes:
        id: the platform's job id.
        request: the request to the engine's app.
        native: whether a stream is yielded as merged chunk objects instead of SSE text.
    """

    id: str
    request: EngineRequest
    native: bool = False


class RequestParser:
    """Parses requests for one served model and its LoRA adapters.

    Args:
        models: the name of the served model, then those of its LoRA adapters.
        repository: the model's repository or path, also valid as its name.
        request_fields: the engine's body fields by POST path.
        adapter_routes: the paths that support LoRA adapters, None for all.
        media_domains: the domains of media URLs; empty for every public one.
        context_tokens: the model's context length, None if unknown.
        aliases: more names of the served model.
        body_limits: bounds on the size of a body, None for none.
        validators: checks of the engine's own for encoded bodies by POST path, which raise
            InvalidInput for the first invalid item.
        limits: bounds on what a request may ask of the engine, None for none.
    """

    def __init__(
        self,
        models: Sequence[str],
        repository: str,
        request_fields: Mapping[str, frozenset[str]],
        adapter_routes: frozenset[str] | None = None,
        media_domains: frozenset[str] = frozenset(),
        context_tokens: int | None = None,
        aliases: Sequence[str] = (),
        body_limits: BodyLimits | None = None,
        validators: Mapping[str, Callable[[bytes], None]] | None = None,
        limits: RequestLimits | None = None,
    ) -> None:
        self._models = models
        self._default_model = models[0]
        self._repository = repository
        self._request_fields = request_fields
        self._fields = FieldTranslator(request_fields)
        self._adapter_routes = adapter_routes
        self._media_domains = media_domains
        self._context_tokens = context_tokens
        self._aliases = aliases
        self.body_limits = body_limits
        self._validators = validators or {}
        self._limits = limits

    def parse_job(self, job: Mapping[str, Any]) -> ParsedJob:
        """Parse a job with a single request.

        Raises:
            RequestError: the input is invalid.
        """
        try:
            return self._job(str(job.get("id", "")), job.get("input"))
        except UnicodeEncodeError as error:
            raise InvalidInput(
                "The input has a lone surrogate, which is not valid Unicode."
            ) from error

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
        """Parse an HTTP call.

        Raises:
            RequestError: the call is invalid.
        """
        route = find_route(path, self._request_fields, in_job=False)
        if method != route.method:
            raise MethodNotAllowed(path, method, route.method)
        if method == "GET":
            return self._get(request_id, route, query)
        if not route.has_body:
            return EngineRequest("POST", route.path, query=query, request_id=request_id)
        if self.body_limits is not None and route.path not in FORMS:
            self.body_limits.check_text(body)
        value = http_fields(route.path, body, content_type)
        return self._post(request_id, route.path, value, query)

    def _job(self, job_id: str, data: object) -> ParsedJob:
        if not isinstance(data, dict):
            raise InvalidInput(f"input must be a JSON object, got {json_type(data)}.", "input")
        given = without_nulls(data)
        for name in ROUTE_NAMES:
            if given.get(name) == "":  # an empty field of a web form
                del given[name]
        if "openai_route" in given or given.get("openai_input"):
            return ParsedJob(job_id, self._openai(job_id, given))
        given.pop("openai_input", None)  # it is empty
        if "route" in given:
            for name in given:
                if name not in ROUTE_FIELDS:
                    raise InvalidInput(
                        f"{name!r} is not allowed beside route, body and method.",
                        name,
                    )
            request = self._routed(job_id, *(given.get(name) for name in ROUTE_FIELDS))
            return ParsedJob(job_id, request)
        if is_native(given):
            return ParsedJob(job_id, self._native(job_id, given), native=True)
        if isinstance(given.get("input"), dict):
            raise InvalidInput(
                "input must not contain another input: send the inner fields only.", "input"
            )
        raise InvalidInput(
            "input needs openai_route with openai_input, route with body, prompt, messages, or "
            "batch.",
            "input",
        )

    def _openai(self, job_id: str, data: dict[str, Any]) -> EngineRequest:
        """Parse an OpenAI input; without a route, its fields decide between chat and completion."""
        body = data.pop("openai_input", None)
        route = data.pop("openai_route", None)
        if route is None:
            route = default_route(body)
        request = self._routed(job_id, route, body, None)
        for name in data:
            if name in self._fields.known(request.path):
                raise InvalidInput(f"{name!r} must be inside openai_input, not beside it.", name)
            self._fields.log_once(name, "%r beside openai_input is ignored", name[:60])
        return request

    def _routed(self, job_id: str, route: object, body: object, method: object) -> EngineRequest:
        if not isinstance(route, str):
            raise InvalidInput(f"route must be a string, got {json_type(route)}.", "route")
        if body is not None and not isinstance(body, dict):
            raise InvalidInput(f"The body must be a JSON object, got {json_type(body)}.", "body")
        name, _, query = route.partition("?")
        found = find_route(name, self._request_fields, in_job=True)
        verb = method.upper() if method and isinstance(method, str) else "POST" if body else "GET"
        if verb not in ("GET", "POST") or not isinstance(method, str | None):
            raise InvalidInput(f"method must be GET or POST, got {shown(method)}.", "method")
        if found.method == "GET":
            if verb != "GET":
                raise InvalidInput(f"{found.path} is a GET route and takes no body.", "route")
            return self._get(job_id, found, _encodable(query))
        if verb != "POST":
            raise InvalidInput(f"{found.path} is a POST route and needs a body.", "body")
        if found.path == POST["responses"]:
            _check_background(merge_extra_body(body or {}))
        return self._post(job_id, found.path, dict(body or {}), query)

    def _native(self, job_id: str, data: Mapping[str, Any]) -> EngineRequest:
        path, body = native_request(data)
        return self._post(job_id, path, body, "", native=True)

    def _get(self, request_id: str, route: Route, query: str) -> EngineRequest:
        part = None
        if route.model is not None:
            names = (route.model, self._model(route.model, None))
            part = functools.partial(_model_card, names)
        return EngineRequest(
            "GET", route.path, query=query, request_id=request_id, transform_response=part
        )

    def _post(
        self, job_id: str, path: str, body: dict[str, Any], query: str, *, native: bool = False
    ) -> EngineRequest:
        is_own = takes_sglang_input(path, self._request_fields)
        has_openai_fields = path not in FORMS and not is_own
        if has_openai_fields:
            body = merge_extra_body(body)
        items = self.body_limits.check(path, body) if self.body_limits is not None else 0
        check_nesting(body)
        if has_openai_fields:
            self._fields.translate(path, body, native=native)
            replace_defaults(path, body, self._fields.log_once)
            _check_plugin(path, body)
        if self._limits is not None:
            self._limits.check(path, body)
        if native and path == POST["completions"]:
            self._fill_context(body)
        body["model"] = self._model(body.get("model"), path)
        hide_usage = include_usage(path, body)
        if is_own:
            body = sglang_body(path, body, self._models)
        encoded = encode_body(path, body, self._media_domains)
        if items > MAX_UNCHECKED_ITEMS and path in self._validators and path not in FORMS:
            self._validators[path](encoded.content)
        return EngineRequest(
            method="POST",
            path=path,
            body=encoded.content,
            content_type=encoded.content_type,
            query=_encodable(query),
            request_id=job_id,
            hide_usage=hide_usage,
            prepare_body=encoded.prepare,
        )

    def _model(self, name: object, path: str | None) -> object:
        """Return the engine's name for a model; the engine rejects a name that is not a string."""
        if name in (None, "", self._repository, *self._aliases):
            name = self._default_model
        if not isinstance(name, str):
            return name
        if name not in self._models:
            known = ", ".join(dict.fromkeys((*self._models, *self._aliases)))
            raise UnknownModel(f"The model `{name}` does not exist. Models: {known}.", "model")
        routes = self._adapter_routes
        if name != self._default_model and routes is not None and path not in (None, *routes):
            raise InvalidInput(
                f"This engine has LoRA adapters on {', '.join(sorted(routes))}, not on {path}.",
                "model",
            )
        return name

    def _fill_context(self, body: dict[str, Any]) -> None:
        """Set max_tokens to the whole context; the engine's default is 16 tokens."""
        if MAX_TOKENS in body or not self._context_tokens:
            return
        body[MAX_TOKENS] = self._context_tokens
        self._fields.log_once(
            MAX_TOKENS,
            "a prompt without max_tokens may fill the context of %d tokens",
            self._context_tokens,
        )


def _check_background(body: Mapping[str, Any]) -> None:
    """Reject background responses: the engine keeps them in one worker."""
    if body.get("background"):
        raise InvalidInput(
            "background is not supported in a job: remove it. /run returns at once, and the "
            "result is in /status.",
            "background",
        )


def _check_plugin(path: str, body: Mapping[str, Any]) -> None:
    """Reject `data`, whose URLs an engine plugin would fetch without a check."""
    if path == POST["pooling"] and "data" in body:
        raise InvalidInput(
            "data is not supported, because a plugin would fetch its URLs: send input or messages.",
            "data",
        )


def _model_card(names: Sequence[object], listing: dict[str, Any]) -> dict[str, Any]:
    """Return the response of `models/ID`: the list's entry for the first known name."""
    cards = {card["id"]: card for card in listing["data"]}
    found = (cards[name] for name in names if name in cards)
    return next(found, {"id": names[0], "object": "model"})


def _encodable(text: str) -> str:
    """Return the text; raises UnicodeEncodeError if it has a lone surrogate."""
    text.encode()
    return text
