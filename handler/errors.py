"""The exceptions, the one function that renders one as an error object, and redaction of secrets.

    WorkerError
    ├── StartError            the worker cannot start or continue; exits with `exit_code`; `lasting`
    │   │                         says whether every other start would fail in the same way
    │   ├── InvalidSetting    2  an environment variable or engine flag has an invalid value
    │   ├── ModelUnavailable  3  the model is not found, or cannot be downloaded
    │   ├── EngineStartFailed 4  the engine failed to start with this model and these flags
    │   │   └── OutOfGpuMemory   a second start follows (engine/second_start.py)
    │   ├── EngineDied        5  the engine died after its start
    │   └── LoopFailed        6  a thread or task of the worker ended by an exception
    ├── ClientDisconnected    the client has disconnected, or does not read the response
    └── RequestError          one request fails; the worker continues
        ├── InvalidInput      400  the job's input is invalid
        │   ├── UrlNotFound   400  a URL in the input answered 404 or 410
        │   └── InvalidLine   400  a line of a batch is not in the batch format
        ├── Unauthorized      401  API_KEY is set and the request has no valid key
        ├── UnknownRoute      404  not an inference route
        ├── UnknownModel      404  not the served model or one of its LoRA adapters
        ├── UnknownJob        404  no such job, or its result has expired
        ├── MethodNotAllowed  405  the route exists, with another method
        ├── RequestTimedOut   408  REQUEST_TIMEOUT passed, or the request body did not arrive
        ├── InputTooLarge     413  the input exceeds a size limit
        ├── UnsupportedBody   415  the body has an unsupported format, encoding or charset
        ├── QueueFull         429  the admission queue is full
        ├── EngineUnavailable 503  the engine is starting, stopping or dead
        ├── WorkerNotStarted  503  the start has failed, and every other start would
        └── EngineError       the engine's own status code and error object

The Runpod SDK prints a nested object as a Python repr, so a job's error is a JSON string.
"""

import errno
import json
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

log = logging.getLogger(__name__)

EXIT_FAILED = 1  # the local job failed, or an unexpected error
MAX_MESSAGE_CHARACTERS = 4_000  # error texts quote the input, which may be megabytes
MAX_PARAM_CHARACTERS = 200
# Errors of files that every host answers alike; others are of a disk, a mount or a network.
LASTING_ERRNOS = frozenset(
    {
        errno.EACCES,
        errno.EADDRNOTAVAIL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


class WorkerError(Exception):
    """Base class; `str()` is one sentence for the user."""


class StartError(WorkerError):
    """The worker cannot start or continue; the process exits with `exit_code`.

    Args:
        message: one sentence: what is wrong, and what to change.
        lasting: overrides the class's `lasting`.

    Attributes:
        lasting: whether the cause follows from the configuration alone, so that every other start
            would fail in the same way; jobs may then be failed with it. False where another host or
            a later start may succeed, and where the cause is unknown.
    """

    exit_code = EXIT_FAILED
    lasting = False

    def __init__(self, message: str, *, lasting: bool | None = None) -> None:
        super().__init__(message)
        if lasting is not None:
            self.lasting = lasting


class InvalidSetting(StartError):
    """The message has the setting's name, its value, and the valid values."""

    exit_code = 2
    lasting = True


class ModelUnavailable(StartError):
    """Lasting, unless the network, the hub's server or this host's disk is the cause."""

    exit_code = 3
    lasting = True


class EngineStartFailed(StartError):
    """Not lasting, unless the checkpoint, the flags and the kind of GPU decide it."""

    exit_code = 4


class EngineDied(StartError):
    """The engine died after its start; the platform must replace this worker."""

    exit_code = 5


class LoopFailed(StartError):
    """A thread or task of the worker ended by an exception; the platform must replace it."""

    exit_code = 6


class ClientDisconnected(WorkerError):
    """The client has disconnected, or does not read the response."""


class RequestError(WorkerError):
    """One request fails.

    Attributes:
        status: the HTTP status code.
        type: the `type` of the OpenAI error object.
        shows_paths: whether the caller may see the paths of files in a server error (5xx).
        param: the invalid input field.
        headers: HTTP response headers, such as `retry-after`.
    """

    status = 500
    type = "InternalServerError"
    shows_paths = False
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
        code: a machine-readable error code, such as `invalid_json`.
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
        message = f"{path} accepts {' or '.join(allowed)}, not {method}."
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


class WorkerNotStarted(EngineUnavailable):
    """The start has failed with a lasting cause, which the message is; it may name files."""

    shows_paths = True
    headers: Mapping[str, str] = {"x-should-retry": "false"}


class EngineError(RequestError):
    """An error response of the engine, passed on to the caller.

    Engines answer with `{"error": {"message", …}}` or with `{"message", …}`.

    Args:
        status: the engine's HTTP status code.
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
NO_REASON = "The engine failed on this request without an error message."
STARS = "***"
# The user and password of a URL, up to the last @ before its path.
USER_INFO = re.compile(r"(?<=://)[^/\s'\"]*(?=@)")
NOISE = re.compile(
    r"For further information visit.*|Supported architectures: .*|"
    r"VLLM_ALLOW_LONG_MAX_MODEL_LEN must be used .*|"
    r"This may lead to incorrect model outputs or CUDA errors\. ",
    re.DOTALL,
)
_secrets: set[str] = set()
_PATH = re.compile(r"(?<![\w:/.])(?:/[\w.@+-]+){2,}")


def one_line(text: str) -> str:
    """Join the lines of a library's message, without what does not say the cause.

    These are pydantic's link to its documentation, the names of hundreds of architectures, and what
    CUDA would do if the engine did not refuse a length.
    """
    return " ".join(NOISE.sub("", text).split())


def render(error: BaseException, for_anthropic: bool = False) -> str:
    """Return an exception of any type as the JSON text of an OpenAI error object.

    The traceback of an unexpected exception goes to the log only, never to the caller.

    Args:
        error: the exception.
        for_anthropic: whether to return Anthropic's `{"type": "error", "error": {…}}` instead.

    Returns:
        `{"error": {"message", "type", "param", "code"}}` as JSON; `code` is the HTTP status code.
    """
    if isinstance(error, RequestError):
        message, kind, param, code = str(error), error.type, error.param, error.status
    else:
        log.error("unexpected error", exc_info=error)
        message, param = "The worker failed on this request; see its log for the cause.", None
        kind, code = RequestError.type, RequestError.status
    hides_paths = code >= 500 and not (isinstance(error, RequestError) and error.shows_paths)
    message = _redacted(message, hides_paths)[:MAX_MESSAGE_CHARACTERS]
    body: dict[str, Any] = {
        "error": {
            "message": message,
            "type": kind,
            "param": param and _redacted(str(param), hides_paths)[:MAX_PARAM_CHARACTERS],
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
    # The SDK cannot send a lone surrogate: the job would never finish.
    return text.encode("utf-8", "replace").decode()


def hide_secrets(values: Iterable[str | None]) -> None:
    """Have `redact` replace these texts, such as the hub token."""
    _secrets.update(value for value in values if value)


def redact(text: str) -> str:
    """Return the text with stars in place of secrets and of the passwords in URLs."""
    for secret in _secrets:
        text = text.replace(secret, STARS)
    return USER_INFO.sub(STARS, text) if "@" in text else text


def is_lasting(error: BaseException) -> bool:
    """Whether a file's error follows from its name, not from a disk, a mount or a network."""
    return not isinstance(error, OSError) or error.errno in LASTING_ERRNOS


def _redacted(message: str, hides_paths: bool) -> str:
    """Remove secrets, and file paths if they are to be hidden."""
    message = redact(message)
    return _PATH.sub("[path]", message) if hides_paths else message
