"""The line format of OpenAI's Batch API, in and out.

In:  {"custom_id": "…", "method": "POST", "url": "/v1/…", "body": {…}}
Out: {"id": "…", "custom_id": "…", "response": {"status_code", "request_id", "body"}, "error": null}

A line that was asked has a `response`, whatever the status; its `body` may be an error object. One
that could not be asked has an `error` with `code` and `message` instead.
https://platform.openai.com/docs/api-reference/batch

What a body may say is the job reader's to judge, and the engine's.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import orjson

from handler.errors import InvalidLine, RequestError, render
from handler.request.routes import POST, route_name

MOST_LINE_BYTES = 10_000_000


@dataclass(frozen=True)
class BatchLine:
    """One line of a batch.

    Attributes:
        number: in the batch, from 1 on.
        custom_id: the caller's name for it; None where there is none.
        url: the route.
        body: of the request.
        fault: why it cannot be asked, None where it can.
    """

    number: int
    custom_id: str | None = None
    url: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    fault: InvalidLine | None = None


def read(number: int, raw: Any) -> BatchLine:
    """Understand a line: the bytes of JSON, or what they stand for."""
    custom_id = None
    try:
        value = _decoded(raw) if isinstance(raw, bytes) else raw
        if not isinstance(value, dict):
            raise InvalidLine("invalid_line", "is no JSON object.")
        custom_id = _custom_id(value)
        return BatchLine(number, custom_id, _url(value), _body(value))
    except InvalidLine as fault:
        return BatchLine(number, custom_id, fault=numbered(number, fault))


def numbered(number: int, fault: InvalidLine) -> InvalidLine:
    """Return the fault with the line's number in its sentence."""
    return InvalidLine(fault.code, f"Line {number} {fault}")


def answered(line: BatchLine, name: str, body: Any) -> bytes:
    """Return the result of a line that the engine has answered.

    Args:
        line: the line.
        name: of its request.
        body: what the engine says.
    """
    response = {"status_code": 200, "request_id": name, "body": body}
    return _result(line, name, response, None)


def failed(line: BatchLine, name: str, error: Exception) -> bytes:
    """Return the result of a line that has failed."""
    if isinstance(error, InvalidLine):
        return _result(line, name, None, {"code": error.code, "message": str(error)})
    status = error.status if isinstance(error, RequestError) else RequestError.status
    body = json.loads(render(error))
    return _result(line, name, {"status_code": status, "request_id": name, "body": body}, None)


def succeeded(raw: bytes) -> str | None:
    """Return the custom_id of a result that is a success, None of any other."""
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


def _result(line: BatchLine, name: str, response: object, error: object) -> bytes:
    result = {
        "id": f"batch_req_{name}",
        "custom_id": line.custom_id,
        "response": response,
        "error": error,
    }
    return json.dumps(result, ensure_ascii=False).encode("utf-8", "replace")


def _decoded(raw: bytes) -> Any:
    if len(raw) > MOST_LINE_BYTES:
        raise InvalidLine("line_too_long", f"has more than {MOST_LINE_BYTES} bytes.")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidLine("invalid_json", f"is no JSON: {error}.") from error


def _custom_id(value: dict[str, Any]) -> str:
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise InvalidLine("missing_custom_id", "has no custom_id, which is a text.")
    try:
        custom_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidLine("missing_custom_id", "has half a surrogate pair as custom_id.") from error
    return custom_id


def _url(value: dict[str, Any]) -> str:
    method, url = value.get("method"), value.get("url")
    if method != "POST":
        raise InvalidLine("invalid_method", f"has the method {_shown(method)}, not 'POST'.")
    if not isinstance(url, str) or route_name(url.partition("?")[0]) not in POST:
        known = ", ".join(POST.values())
        raise InvalidLine("invalid_url", f"has the url {_shown(url)}, which is none of {known}.")
    return url


def _body(value: dict[str, Any]) -> dict[str, Any]:
    body = value.get("body")
    if not isinstance(body, dict) or not body:
        raise InvalidLine("invalid_body", "has no body, which is an object.")
    if body.get("stream"):
        raise InvalidLine("invalid_body", "has stream in its body: no line of a batch can stream.")
    return body


def _shown(value: object) -> str:
    return repr(value)[:100]
