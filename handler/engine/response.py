"""What the engine answered, read whole: a value, or the error that it is.

The engine's own error objects are handed on. What a dead engine says is not.
"""

import logging
from typing import Any

import orjson

from handler.engine.aliases import flags_to_variables
from handler.engine.asgi_call import AsgiCall
from handler.engine.deadline import Deadline
from handler.engine.runtime import EngineRuntime
from handler.errors import EngineError, EngineUnavailable, InvalidInput, UnknownRoute

WORDS = ("error", "message", "detail")
BYTES = "application/octet-stream"

log = logging.getLogger(__name__)


async def whole_body(exchange: AsgiCall, clock: Deadline) -> bytes:
    """Return all of the answer's body.

    Raises:
        RequestError: the engine's death, or the timeout.
    """
    parts = []
    while data := await clock.bound(exchange.read()):
        parts.append(data)
    return b"".join(parts)


def value(exchange: AsgiCall, body: bytes, path: str, host: EngineRuntime) -> Any:
    """Return what a plain answer says: the JSON value, or the text.

    Raises:
        RequestError: it is an error, or neither of these.
    """
    text = body.decode("utf-8", "replace")
    payload: Any = text
    content_type = exchange.headers.get("content-type", "")
    if content_type.startswith("application/json"):
        payload = orjson.loads(text)
    elif content_type.startswith(BYTES):
        raise InvalidInput(
            "A job's output is JSON, which has no bytes: ask for encoding_format base64 or float.",
            "encoding_format",
        )
    if exchange.status == 404 and payload == {"detail": "Not Found"}:
        raise UnknownRoute(f"This model does not serve {path}.", "route")
    if exchange.status >= 400:
        raise refusal(exchange.status, payload, host)
    if isinstance(payload, dict) and payload.get("error"):
        raise refusal(code_in(payload), payload, host)
    return payload


def refusal(status: int, payload: Any, host: EngineRuntime) -> EngineError | EngineUnavailable:
    """Return the error that an engine's answer with this status is."""
    if status >= 500 and (host.running is None or not host.running.alive()):
        return EngineUnavailable("The engine died; the worker is being replaced.")
    if status >= 500:
        # Its words may quote the input: they are the caller's.
        log.error("the engine answered %d (%s)", status, EngineError(status, payload).type)
    return EngineError(status, _with_variables(payload))


def _with_variables(payload: Any) -> Any:
    """Name the settings by which a worker gets flags, where an engine asks for these."""
    if isinstance(payload, dict):
        return {
            name: _with_variables(value) if name in WORDS else value
            for name, value in payload.items()
        }
    return flags_to_variables(payload) if isinstance(payload, str) else payload


def code_in(failure: Any) -> int:
    """Return the HTTP status that an error object names, or 500."""
    error = failure.get("error") if isinstance(failure, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500
