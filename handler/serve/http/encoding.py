"""How a request's body is encoded: compressed, and in which character set its text is.

JSON is UTF-8 (https://www.rfc-editor.org/rfc/rfc8259#section-8.1), but clients on some platforms
send a byte-order mark, or the character set that their content type names.
"""

import codecs
import json
import zlib
from email.message import Message

from handler.errors import InputTooLarge, InvalidInput, UnsupportedBody

GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # either header is recognized
COMPRESSED = frozenset({"gzip", "x-gzip", "deflate"})
CHARSETS = ("utf-8", "utf-16", "utf-32", "iso-8859-1", "windows-1252", "us-ascii")
CODECS = frozenset(codecs.lookup(name).name for name in CHARSETS)
CODECS |= {"utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"}


def decompressed(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """Return a body without its `Content-Encoding`.

    Raises:
        UnsupportedBody: the encoding is another than gzip or deflate.
        InputTooLarge: there would be more than `max_bytes`.
        InvalidInput: it is not compressed as it says.
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
        raise InputTooLarge(
            f"The body has more than {max_bytes} bytes when it is decompressed.", "body"
        )
    if not reader.eof or reader.unused_data:
        raise InvalidInput(f"The body is not one whole {encoding} stream.", "body")
    return content


def as_utf8(body: bytes, content_type: str) -> bytes:
    """Return a JSON body as UTF-8 without a byte-order mark.

    Raises:
        UnsupportedBody: the content type names another character set than CHARSETS.
        InvalidInput: the body is not in its character set.
    """
    declared, detected = _charset(content_type), json.detect_encoding(body)
    name = declared if detected == "utf-8" else detected
    if name == "utf-8":
        return body  # its reader says what is wrong with it
    try:
        return body.decode(name).encode()
    except UnicodeError as error:
        raise InvalidInput(
            f"The body is not {name.removesuffix('-sig')}: {error}.", "body"
        ) from error


def _window_bits(data: bytes) -> int:
    """Return how to read a compressed body: some clients send deflate without zlib's header."""
    is_gzip, is_zlib = data[:2] == b"\x1f\x8b", len(data) > 1 and _is_zlib_header(data)
    return GZIP_OR_ZLIB if is_gzip or is_zlib else -zlib.MAX_WBITS


def _is_zlib_header(data: bytes) -> bool:
    return data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0


def _charset(content_type: str) -> str:
    """Return Python's name of the character set in a content type."""
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
