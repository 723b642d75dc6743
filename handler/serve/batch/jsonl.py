"""The line format of OpenAI's Batch API, for input and output.

In:  {"custom_id": "…", "method": "POST", "url": "/v1/…", "body": {…}}
Out: {"id": "…", "custom_id": "…", "response": {"status_code", "request_id", "body"}, "error": null}

A line that was sent has a `response` of any status; its `body` may be an error object. An invalid
line has an `error` with `code` and `message` instead.
https://platform.openai.com/docs/api-reference/batch
"""

import json
from dataclasses import dataclass, field
from typing import Any

import orjson

from handler.errors import InvalidLine, RequestError, UnknownRoute, render
from handler.request.json_text import shown
from handler.request.routes import find_route

MAX_LINE_BYTES = 10_000_000
MAX_SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class BatchLine:
    """One line of a batch.

    Attributes:
        number: the line number, from 1.
        custom_id: the caller's id; None if it is missing.
        url: the route.
        body: the request body.
        error: the error of an invalid line, else None.
    """

    number: int
    custom_id: str | None = None
    url: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    error: InvalidLine | None = None


def parse_line(number: int, raw: Any) -> BatchLine:
    """Return a line from JSON bytes or from a decoded value."""
    custom_id = None
    try:
        value = _decode(raw) if isinstance(raw, bytes) else raw
        if not isinstance(value, dict):
            raise InvalidLine("invalid_line", "is not a JSON object.")
        custom_id = _custom_id(value)
        return BatchLine(number, custom_id, _url(value), _body(value))
    except InvalidLine as error:
        return BatchLine(number, custom_id, error=numbered(number, error))


def numbered(number: int, error: InvalidLine) -> InvalidLine:
    """Return the error with the line number in its message."""
    return InvalidLine(error.code, f"Line {number} {error}")


def success_result(line: BatchLine, request_id: str, body: Any) -> bytes:
    """Return the result of a successful line."""
    response = {"status_code": 200, "request_id": request_id, "body": body}
    return _result(line, request_id, response, None)


def error_result(line: BatchLine, request_id: str, error: Exception) -> bytes:
    """Return the result of a failed line."""
    if isinstance(error, InvalidLine):
        return _result(line, request_id, None, {"code": error.code, "message": str(error)})
    status = error.status if isinstance(error, RequestError) else RequestError.status
    body = json.loads(render(error))
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _result(line, request_id, response, None)


def succeeded_id(raw: bytes) -> str | None:
    """Return the custom_id of a successful result, None for any other."""
    try:
        result = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(result, dict) or result.get("error"):
        return None
    response, custom_id = result.get("response"), result.get("custom_id")
    if not isinstance(response, dict) or response.get("status_code") != 200:
        return None
    return custom_id if isinstance(custom_id, str) else None


def _result(line: BatchLine, request_id: str, response: object, error: object) -> bytes:
    result = {
        "id": f"batch_req_{request_id}",
        "custom_id": line.custom_id,
        "response": response,
        "error": error,
    }
    return json.dumps(result, ensure_ascii=False).encode("utf-8", "replace")


def _decode(raw: bytes) -> Any:
    if len(raw) > MAX_LINE_BYTES:
        raise InvalidLine("line_too_long", f"has more than {MAX_LINE_BYTES} bytes.")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidLine("invalid_json", f"is not JSON: {error}.") from error


def _custom_id(value: dict[str, Any]) -> str:
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise InvalidLine("missing_custom_id", "needs a custom_id, which must be a string.")
    try:
        custom_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidLine("missing_custom_id", "has a lone surrogate in its custom_id.") from error
    return custom_id


def _url(value: dict[str, Any]) -> str:
    method, url = value.get("method"), value.get("url")
    if method != "POST":
        raise InvalidLine("invalid_method", f"has the method {_shown(method)}; it must be 'POST'.")
    if not isinstance(url, str):
        raise InvalidLine("invalid_url", f"has the url {_shown(url)}; it must be a string.")
    try:
        route = find_route(url.partition("?")[0][:MAX_SHOWN_CHARACTERS], in_job=True)
    except UnknownRoute as error:
        raise InvalidLine("invalid_url", f"has an invalid url: {error}") from error
    if route.method != "POST":
        raise InvalidLine("invalid_url", f"has the url {_shown(url)}, which is a GET route.")
    return url


def _body(value: dict[str, Any]) -> dict[str, Any]:
    body = value.get("body")
    if not isinstance(body, dict) or not body:
        raise InvalidLine("invalid_body", "needs a body, which must be a JSON object.")
    if body.get("stream"):
        raise InvalidLine(
            "invalid_body", "has stream in its body; a batch line cannot be streamed."
        )
    return body


def _shown(value: object) -> str:
    return shown(value)[:MAX_SHOWN_CHARACTERS]
