"""Request bodies: decoding of an HTTP body, and encoding for the engine."""

import functools
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from handler.errors import InputTooLarge, InvalidInput, UnsupportedBody
from handler.request.form import FORM_TYPE, FormFile, decode_form, parse_form
from handler.request.json_text import json_type, paused_collector
from handler.request.media import base64_to_data_uris, find_media, media_from_urls
from handler.request.routes import FORMS

MAX_BODY_BYTES = 30_000_000  # the platform's limit on its load-balancing endpoints


@dataclass(frozen=True)
class EncodedBody:
    """A body for the engine; `prepare` becomes `EngineRequest.prepare_body`."""

    content: bytes
    content_type: str
    prepare: Callable[[bytes], Awaitable[bytes]] | None


def http_fields(path: str, body: bytes, content_type: str) -> dict[str, Any]:
    """Return the fields of an HTTP body: a JSON object, or a form on a route that accepts one.

    Raises:
        InvalidInput: the body is neither.
        UnsupportedBody: the body is a form, and `path` accepts none.
    """
    if content_type.partition(";")[0].strip().lower() == FORM_TYPE:
        if path not in FORMS:
            raise UnsupportedBody(f"{path} needs a JSON object, not a form.")
        return decode_form(body, content_type)
    try:
        with paused_collector():
            value = orjson.loads(body)
    except ValueError as error:
        raise InvalidInput(f"The body is not JSON: {error}.", "body") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"The body must be a JSON object, got {json_type(value)}.", "body")
    return value


def encode_body(path: str, fields: Mapping[str, Any], domains: Collection[str]) -> EncodedBody:
    """Return the engine's body for `path`; `prepare` fetches its media later.

    Raises:
        RequestError: the body is too large, or its media or its file are invalid.
    """
    if path not in FORMS:
        base64_to_data_uris(fields)
        content = _json(fields)
        _check_size(content)
        media = find_media(fields, domains)
        return EncodedBody(content, "application/json", media.inline_into if media else None)
    form, file = parse_form(path, fields)
    if isinstance(file, FormFile):
        content = form.encode(file)
        _check_size(content)
        return EncodedBody(content, form.content_type, None)
    fetch = functools.partial(form.encode_fetched, media_from_urls((file,), domains))
    return EncodedBody(form.encode(FormFile(b"")), form.content_type, fetch)


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        content = orjson.dumps(body)
        if b"null" not in content:  # orjson writes it for NaN too
            return content
    except TypeError:  # a large integer, a lone surrogate, or nested too deeply
        pass
    try:
        # Compact: with spaces a body of 30 MB could be over the limit.
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except RecursionError as error:
        raise InvalidInput("The body is nested too deeply.", "body") from error


def _check_size(content: bytes) -> None:
    if len(content) > MAX_BODY_BYTES:
        raise InputTooLarge(
            f"The body has {len(content)} bytes; the limit is {MAX_BODY_BYTES}.", "body"
        )
