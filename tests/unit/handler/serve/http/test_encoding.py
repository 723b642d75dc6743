"""Bodies as clients encode them become UTF-8, or an error that says what is read."""

import gzip
import zlib

import pytest

from handler.errors import InputTooLarge, InvalidInput, UnsupportedBody
from handler.serve.http.encoding import as_utf8, decompressed

TEXT = '{"prompt": "Zoë"}'
JSON = TEXT.encode()
MAX_BYTES = 100_000


def raw_deflate(data):
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("", JSON),
        ("identity", JSON),
        ("gzip", gzip.compress(JSON)),
        ("X-GZip ", gzip.compress(JSON)),
        ("deflate", zlib.compress(JSON)),
        ("deflate", raw_deflate(JSON)),
        ("gzip", gzip.compress(JSON * 1000)),
    ],
    ids=["none", "identity", "gzip", "x-gzip", "deflate", "deflate without header", "larger"],
)
def test_a_compressed_body_is_read(encoding, body):
    assert decompressed(body, encoding, MAX_BYTES) in (JSON, JSON * 1000)


def test_no_body_is_not_compressed():
    """Some clients name the encoding of every request."""
    assert decompressed(b"", "gzip", MAX_BYTES) == b""


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_another_encoding_is_refused_with_those_that_are_read(encoding):
    with pytest.raises(UnsupportedBody) as caught:
        decompressed(JSON, encoding, MAX_BYTES)
    assert str(caught.value) == (
        f"Content-Encoding must be gzip, deflate or identity, got {encoding!r}."
    )
    assert caught.value.status == 415
    assert caught.value.headers == {"accept-encoding": "gzip, deflate, identity"}


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, raw_deflate])
def test_a_bomb_is_stopped_at_the_limit(compress):
    """A thousandth of its size arrives."""
    with pytest.raises(InputTooLarge) as caught:
        decompressed(compress(bytes(MAX_BYTES + 1)), "gzip", MAX_BYTES)
    assert str(caught.value) == "The decompressed body has more than 100000 bytes."
    assert decompressed(compress(bytes(MAX_BYTES)), "gzip", MAX_BYTES) == bytes(MAX_BYTES)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (JSON, "The body is not gzip: "),
        (gzip.compress(JSON)[:-9], "The body must be one complete gzip stream."),
        (gzip.compress(JSON) + b"x", "The body must be one complete gzip stream."),
    ],
    ids=["plain", "cut short", "more after it"],
)
def test_a_body_that_is_not_compressed_as_it_says_is_refused(body, error):
    with pytest.raises(InvalidInput) as caught:
        decompressed(body, "gzip", MAX_BYTES)
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("", "utf-8"),
        ("application/x-www-form-urlencoded", "utf-8"),  # what curl -d says of JSON
        ("application/json", "utf-8-sig"),
        ("application/json; charset=UTF-8", "utf-8"),
        ('application/json; charset="utf8"', "utf-8-sig"),
        ("application/json; charset=", "utf-8"),
        ("application/json", "utf-16"),
        ("application/json", "utf-32"),
        ("application/json; charset=utf-8", "utf-16"),  # the mark knows better
        ("application/json; charset=utf-16le", "utf-16-le"),
        ("application/json; charset=utf-16", "utf-16"),
        ("application/json; charset=ISO-8859-1", "latin-1"),
        ("application/json; charset=latin1", "latin-1"),
        ("application/json; charset=windows-1252", "cp1252"),
    ],
)
def test_a_body_in_the_character_set_that_it_names_becomes_utf_8(content_type, encoding):
    """Without a byte-order mark, which JSON must not have."""
    assert as_utf8(TEXT.encode(encoding), content_type) == JSON


@pytest.mark.parametrize("name", ["koi8-r", "base64", "rot13", "klingon"])
def test_another_character_set_is_refused_with_those_that_are_read(name):
    with pytest.raises(UnsupportedBody) as caught:
        as_utf8(JSON, f"application/json; charset={name}")
    assert str(caught.value) == (
        "charset must be one of utf-8, utf-16, utf-32, iso-8859-1, windows-1252, us-ascii, "
        f"got {name!r}."
    )


@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        (JSON, "application/json; charset=us-ascii", "The body is not ascii: "),
        (b"\xff\xfe{", "application/json", "The body is not utf-16: "),
        ("\ud83e".encode("utf-16", "surrogatepass"), "", "The body is not utf-16: "),
    ],
)
def test_a_body_that_is_not_in_its_character_set_is_refused(body, content_type, error):
    with pytest.raises(InvalidInput) as caught:
        as_utf8(body, content_type)
    assert str(caught.value).startswith(error)
