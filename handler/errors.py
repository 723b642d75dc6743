"""Every error the worker raises on purpose, and the one place that turns an error into output.

    WorkerError
    ├── StartError            the worker cannot start; ends the process with `exit_code`
    │   ├── InvalidSetting        2  an environment variable or a flag has a value that means nothing
    │   ├── ModelUnavailable  3  the weights are not where the settings say, or cannot be fetched
    │   ├── EngineStartFailed 4  the engine did not come up with this model and these flags
    │   └── EngineDied        5  the engine was up and is gone
    ├── ClientDisconnected            nobody is there any more who reads the answer
    └── RequestError          one job fails, the worker goes on
        ├── InvalidInput      400  the job's input does not mean anything
        │   ├── UrlNotFound        400  there is nothing at an address that it names
        │   └── InvalidLine    400  a line of a batch is none of the format
        ├── Unauthorized      401  API_KEY is set, and the request has none or another one
        ├── UnknownRoute      404  not an inference route
        ├── UnknownModel      404  no model or adapter that is served
        ├── UnknownJob        404  no job of this worker, or one that is forgotten
        ├── MethodNotAllowed       405  a route, but not with this method
        ├── RequestTimedOut   408  REQUEST_TIMEOUT passed, or the request did not come to its end
        ├── InputTooLarge     413  more than the worker hands to the engine
        ├── QueueFull              429  as many requests wait as may
        ├── EngineUnavailable 503  the engine is gone or going
        └── EngineError     the engine's own status and error object, handed on

This module does not know who reads the output. The Runpod SDK prints a nested error object as a
Python repr, so a job's error is always a JSON string.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

log = logging.getLogger(__name__)

EXIT_FAILED = 1  # a local job failed, or something nobody foresaw
MAX_MESSAGE_CHARACTERS = 4_000  # errors repeat what the caller sent, who may have sent megabytes
MAX_PARAM_CHARACTERS = 200


class WorkerError(Exception):
    """Base of all of them; `str()` is one sentence for a person."""


class StartError(WorkerError):
    """The worker cannot start or go on. `exit_code` is what the process ends with."""

    exit_code = EXIT_FAILED


class InvalidSetting(StartError):
    """A setting means nothing; the text names it, its value, and what would be right."""

    exit_code = 2


class ModelUnavailable(StartError):
    """The weights cannot be found or fetched."""

    exit_code = 3


class EngineStartFailed(StartError):
    """The engine refused the model or the flags, or died on the way up."""

    exit_code = 4


class EngineDied(StartError):
    """The engine was up and is gone: the platform has to replace this worker."""

    exit_code = 5


class ClientDisconnected(WorkerError):
    """The client has left, or makes no room for more of its answer."""


class RequestError(WorkerError):
    """One request fails.

    Attributes:
        status: an HTTP status.
        param: the field at fault.
        headers: of an answer over HTTP, that belong to the status.
    """

    status = 500
    type = "InternalServerError"
    headers: Mapping[str, str] = {}

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidInput(RequestError):
    """The job's input does not mean anything."""

    status = 400
    type = "BadRequestError"


class UrlNotFound(InvalidInput):
    """There is nothing at an address that the input names."""


class InvalidLine(InvalidInput):
    """A line of a batch is none of the format.

    Attributes:
        code: what is wrong, for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Unauthorized(RequestError):
    """The request has no key, or not one of API_KEY."""

    status = 401
    type = "AuthenticationError"
    headers: Mapping[str, str] = {"www-authenticate": "Bearer"}


class UnknownRoute(RequestError):
    """The route is not one that callers may use."""

    status = 404
    type = "NotFoundError"


class UnknownModel(RequestError):
    """The model is none that this worker serves."""

    status = 404
    type = "NotFoundError"


class UnknownJob(RequestError):
    """There is no such job."""

    status = 404
    type = "NotFoundError"


class MethodNotAllowed(RequestError):
    """The route exists, with another method.

    Args:
        path: the route.
        method: the one that was used.
        allowed: those that there are.
    """

    status = 405
    type = "MethodNotAllowedError"

    def __init__(self, path: str, method: str, *allowed: str) -> None:
        super().__init__(f"{path} takes {' or '.join(allowed)}, not {method}.")
        self.headers = {"allow": ", ".join(allowed)}


class RequestTimedOut(RequestError):
    """The request took longer than REQUEST_TIMEOUT, or did not come to its end."""

    status = 408
    type = "RequestTimeoutError"


class InputTooLarge(RequestError):
    """The input is larger than what the worker hands to the engine."""

    status = 413
    type = "RequestTooLargeError"


class QueueFull(RequestError):
    """As many requests wait for the engine as may."""

    status = 429
    type = "RateLimitError"
    headers: Mapping[str, str] = {"retry-after": "1"}


class EngineUnavailable(RequestError):
    """The engine cannot answer: it starts, it died, or the worker is being stopped."""

    status = 503
    type = "ServiceUnavailableError"
    headers: Mapping[str, str] = {"retry-after": "5"}


class EngineError(RequestError):
    """The engine answered with an error of its own, which is handed on.

    Both shapes that the engines use are read: `{"error": {"message", …}}` and `{"message", …}`.

    Args:
        status: the HTTP status that the engine gave.
        payload: the decoded body, of any type.
    """

    def __init__(self, status: int, payload: Any) -> None:
        error = payload.get("error", payload) if isinstance(payload, dict) else payload
        if not isinstance(error, dict):
            error = {"message": str(error)}
        message = error.get("message") or error.get("detail") or NO_REASON
        super().__init__(str(message), error.get("param"))
        self.status = status
        kind = str(error.get("type") or ("BadRequestError" if status < 500 else self.type))
        self.type = {"Bad Request": "BadRequestError"}.get(kind, kind)  # vLLM writes both


ANTHROPIC = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
NO_REASON = "The engine failed on this request and gave no reason."
_secrets: set[str] = set()
_PATH = re.compile(r"(?<![\w:/.])(?:/[\w.@+-]+){2,}")


def keep_secret(values: Iterable[str | None]) -> None:
    """Register texts that `render` must never let out, such as the hub token."""
    _secrets.update(value for value in values if value)


def _harmless(message: str, status: int) -> str:
    """Take out secrets always, and this machine's paths where the error is not the caller's."""
    for secret in _secrets:
        message = message.replace(secret, "***")
    return _PATH.sub("[path]", message) if status >= 500 else message


def one_line(text: str) -> str:
    """Join a library's message of many lines, without pydantic's link to its own manual."""
    return " ".join(text.split("For further information visit")[0].split())


def render(error: BaseException, for_anthropic: bool = False) -> str:
    """Turn any error into a job's `error`: a JSON string of an OpenAI error object.

    Args:
        error: of any kind.
        for_anthropic: whether its reader is a client of Anthropic's, whose object is another one:
            `{"type": "error", "error": {"type", "message"}}`.

    An error that nobody foresaw goes to the log with its traceback and to the caller without
    any of it.

    Returns:
        `{"error": {"message", "type", "param", "code"}}` as JSON; `code` is an HTTP status.
    """
    if isinstance(error, RequestError):
        message, kind, param, code = str(error), error.type, error.param, error.status
    else:
        log.error("unexpected error", exc_info=error)
        message, kind, param, code = (
            "The worker failed on this request; its log has the cause.",
            RequestError.type,
            None,
            RequestError.status,
        )
    body = {
        "message": _harmless(message, code)[:MAX_MESSAGE_CHARACTERS],
        "type": kind,
        "param": param and _harmless(str(param), code)[:MAX_PARAM_CHARACTERS],
        "code": code,
    }
    shown: dict[str, Any] = {"error": body}
    if for_anthropic:
        usual = "api_error" if code >= 500 else "invalid_request_error"
        named = {"type": ANTHROPIC.get(code, usual), "message": body["message"]}
        shown = {"type": "error", "error": named}
    text = json.dumps(shown, ensure_ascii=False)
    # The SDK cannot send a lone surrogate, and would leave the job without an end.
    return text.encode("utf-8", "replace").decode()
