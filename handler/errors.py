"""The errors that the worker raises on purpose, the one function that renders an error, and what
hides secrets in every text that leaves the worker.

    WorkerError
    ├── StartError            the worker cannot start; the process ends with `exit_code`
    │   ├── InvalidSetting    2  an environment variable or an engine flag has an invalid value
    │   ├── ModelUnavailable  3  the weights are not where the settings say, or cannot be fetched
    │   ├── EngineStartFailed 4  the engine did not start with this model and these flags
    │   └── EngineDied        5  the engine was up and died
    ├── ClientDisconnected    the client has left, or does not read its answer
    └── RequestError          one request fails, the worker goes on
        ├── InvalidInput      400  the job's input is invalid
        │   ├── UrlNotFound   400  nothing is found at a URL in the input
        │   └── InvalidLine   400  a line of a batch is not in the batch format
        ├── Unauthorized      401  API_KEY is set and the request has no valid key
        ├── UnknownRoute      404  not an inference route
        ├── UnknownModel      404  neither the served model nor one of its LoRA adapters
        ├── UnknownJob        404  no such job, or its result is no longer kept
        ├── MethodNotAllowed  405  the route exists, with another method
        ├── RequestTimedOut   408  REQUEST_TIMEOUT has passed, or the request body did not arrive
        ├── InputTooLarge     413  more bytes than the worker sends to the engine
        ├── UnsupportedBody   415  a body in a format, encoding or charset that is not read
        ├── QueueFull         429  the admission queue is full
        ├── EngineUnavailable 503  the engine is starting, stopping or dead
        └── EngineError       the engine's own status and error object

The Runpod SDK prints a nested error object as a Python repr, so a job's error is a JSON string.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

log = logging.getLogger(__name__)

EXIT_FAILED = 1  # the local job failed, or an unexpected error
MAX_MESSAGE_CHARACTERS = 4_000  # errors quote the input, which may have megabytes
MAX_PARAM_CHARACTERS = 200


class WorkerError(Exception):
    """Base class; `str()` is one sentence for a person."""


class StartError(WorkerError):
    """The worker cannot start or go on; the process ends with `exit_code`."""

    exit_code = EXIT_FAILED


class InvalidSetting(StartError):
    """The text names the setting, its value, and what would be right."""

    exit_code = 2


class ModelUnavailable(StartError):
    exit_code = 3


class EngineStartFailed(StartError):
    exit_code = 4


class EngineDied(StartError):
    """The platform has to replace this worker."""

    exit_code = 5


class ClientDisconnected(WorkerError):
    """The client has left, or does not read its answer."""


class RequestError(WorkerError):
    """One request fails.

    Attributes:
        status: an HTTP status.
        type: of the OpenAI error object.
        param: the input field at fault.
        headers: HTTP headers that belong to the status.
    """

    status = 500
    type = "InternalServerError"
    headers: Mapping[str, str] = {}

    def __init__(
        self, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        if headers is not None:
            self.headers = headers


class InvalidInput(RequestError):
    status = 400
    type = "BadRequestError"


class UrlNotFound(InvalidInput):
    """The server of a URL in the input answered 404 or 410."""


class InvalidLine(InvalidInput):
    """A line of a batch is not in the batch format.

    Attributes:
        code: what is wrong, for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Unauthorized(RequestError):
    status = 401
    type = "AuthenticationError"
    headers: Mapping[str, str] = {"www-authenticate": "Bearer"}


class UnknownRoute(RequestError):
    status = 404
    type = "NotFoundError"


class UnknownModel(RequestError):
    status = 404
    type = "NotFoundError"


class UnknownJob(RequestError):
    status = 404
    type = "NotFoundError"


class MethodNotAllowed(RequestError):
    status = 405
    type = "MethodNotAllowedError"

    def __init__(self, path: str, method: str, *allowed: str) -> None:
        message = f"{path} takes {' or '.join(allowed)}, not {method}."
        super().__init__(message, headers={"allow": ", ".join(allowed)})


class RequestTimedOut(RequestError):
    status = 408
    type = "RequestTimeoutError"


class InputTooLarge(RequestError):
    status = 413
    type = "RequestTooLargeError"


class UnsupportedBody(RequestError):
    status = 415
    type = "UnsupportedMediaTypeError"


class QueueFull(RequestError):
    status = 429
    type = "RateLimitError"
    headers: Mapping[str, str] = {"retry-after": "1"}


class EngineUnavailable(RequestError):
    status = 503
    type = "ServiceUnavailableError"
    headers: Mapping[str, str] = {"retry-after": "5"}


class EngineError(RequestError):
    """The engine answered with an error, which the caller gets.

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
        self.type = {"Bad Request": "BadRequestError"}.get(kind, kind)  # vLLM uses both


ANTHROPIC_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
NO_REASON = "The engine failed on this request and gave no reason."
STARS = "***"
# The user and password of a URL, up to the last @ before its path.
USER_INFO = re.compile(r"(?<=://)[^/\s'\"]*(?=@)")
_secrets: set[str] = set()
_PATH = re.compile(r"(?<![\w:/.])(?:/[\w.@+-]+){2,}")


def one_line(text: str) -> str:
    """Join a library's message of many lines, without pydantic's link to its own manual."""
    return " ".join(text.split("For further information visit")[0].split())


def render(error: BaseException, for_anthropic: bool = False) -> str:
    """Return any error as the JSON text of an OpenAI error object.

    An unexpected error goes to the log with its traceback, and to the caller without any of it.

    Args:
        error: of any type.
        for_anthropic: whether to return Anthropic's `{"type": "error", "error": {…}}` instead.

    Returns:
        `{"error": {"message", "type", "param", "code"}}` as JSON; `code` is an HTTP status.
    """
    if isinstance(error, RequestError):
        message, kind, param, code = str(error), error.type, error.param, error.status
    else:
        log.error("unexpected error", exc_info=error)
        message, param = "The worker failed on this request; its log has the cause.", None
        kind, code = RequestError.type, RequestError.status
    message = _redacted(message, code)[:MAX_MESSAGE_CHARACTERS]
    body: dict[str, Any] = {
        "error": {
            "message": message,
            "type": kind,
            "param": param and _redacted(str(param), code)[:MAX_PARAM_CHARACTERS],
            "code": code,
        }
    }
    if for_anthropic:
        default = "api_error" if code >= 500 else "invalid_request_error"
        body = {
            "type": "error",
            "error": {"type": ANTHROPIC_TYPES.get(code, default), "message": message},
        }
    text = json.dumps(body, ensure_ascii=False)
    # The SDK cannot send a lone surrogate, and would leave the job without an end.
    return text.encode("utf-8", "replace").decode()


def hide_secrets(values: Iterable[str | None]) -> None:
    """Have `redact` replace these texts, such as the hub token."""
    _secrets.update(value for value in values if value)


def redact(text: str) -> str:
    """Return the text with stars in place of secrets and of the passwords in URLs."""
    for secret in _secrets:
        text = text.replace(secret, STARS)
    return USER_INFO.sub(STARS, text) if "@" in text else text


def _redacted(message: str, status: int) -> str:
    """Hide secrets always, and this machine's paths where the caller is not at fault."""
    message = redact(message)
    return _PATH.sub("[path]", message) if status >= 500 else message
