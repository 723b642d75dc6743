"""Content encoding and charset of request bodies.

JSON must be UTF-8 (https://www.rfc-editor.org/rfc/rfc8259#section-8.1), but some clients add a
byte-order mark or use another charset, with or without naming it in the content type.
"""

import codecs
import json
import zlib
from email.message import Message

from handler.errors import InputTooLarge, InvalidInput, UnsupportedBody

GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # zlib detects the header
COMPRESSED = frozenset({"gzip", "x-gzip", "deflate"})
CHARSETS = ("utf-8", "utf-16", "utf-32", "iso-8859-1", "windows-1252", "us-ascii")
CODECS = frozenset(codecs.lookup(name).name for name in CHARSETS)
CODECS |= {"utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"}


def decompressed(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """Return a decompressed body.

    Raises:
        UnsupportedBody: the content encoding is not gzip or deflate.
        InputTooLarge: the decompressed body is over `max_bytes`.
        InvalidInput: the body does not match its content encoding.
    """
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity") or not body:
        return body
    if encoding not in COMPRESSED:
        raise UnsupportedBody(
            f"Content-Encoding must be gzip, deflate or identity, got {content_encoding!r}.",
            headers={"accept-encoding": "gzip, deflate, identity"},
        )
    reader = zlib.decompressobj(_window_bits(body))
    try:
        content = reader.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidInput(f"The body is not {encoding}: {error}.", "body") from error
    if len(content) > max_bytes:
        raise InputTooLarge(f"The decompressed body has more than {max_bytes} bytes.", "body")
    if not reader.eof or reader.unused_data:
        raise InvalidInput(f"The body must be one complete {encoding} stream.", "body")
    return content


def as_utf8(body: bytes, content_type: str) -> bytes:
    """Return a JSON body as UTF-8 without a byte-order mark.

    Raises:
        UnsupportedBody: the charset of the content type is not in CHARSETS.
        InvalidInput: the body does not match its charset.
    """
    declared, detected = _charset(content_type), json.detect_encoding(body)
    name = declared if detected == "utf-8" else detected
    if name == "utf-8":
        return body  # the JSON decoder reports invalid UTF-8
    try:
        return body.decode(name).encode()
    except UnicodeError as error:
        raise InvalidInput(
            f"The body is not {name.removesuffix('-sig')}: {error}.", "body"
        ) from error


def _window_bits(data: bytes) -> int:
    """Return zlib's `wbits` for a body: some clients send deflate without the zlib header."""
    is_gzip, is_zlib = data[:2] == b"\x1f\x8b", len(data) > 1 and _is_zlib_header(data)
    return GZIP_OR_ZLIB if is_gzip or is_zlib else -zlib.MAX_WBITS


def _is_zlib_header(data: bytes) -> bool:
    return data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0


def _charset(content_type: str) -> str:
    """Return Python's name of the charset in a content type."""
    message = Message()
    message["content-type"] = content_type
    given = message.get_content_charset() or "utf-8"
    try:
        name = codecs.lookup(given).name
    except LookupError:
        name = ""
    if name not in CODECS:
        raise UnsupportedBody(f"charset must be one of {', '.join(CHARSETS)}, got {given!r}.")
    return name
