"""Multipart forms, the body of the engine's routes that take a file.

A job has JSON instead. A form over HTTP is decoded to the same fields, so both get the same checks.
https://www.rfc-editor.org/rfc/rfc7578
"""

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

import httpx

from handler.errors import InvalidInput
from handler.request.media import MEDIA_FIELDS, RequestMedia

FILE = "file"
FORM_TYPE = "multipart/form-data"
MAX_FIELDS = 100
MAX_SCHEME_CHARACTERS = 20  # of a URL, including `://`


@dataclass(frozen=True)
class FormFile:
    """A file in a form.

    Attributes:
        name: its extension tells some engines the audio format.
    """

    content: bytes
    name: str = "upload"
    content_type: str = "application/octet-stream"


@dataclass(frozen=True)
class Form:
    """A form without its file.

    Attributes:
        fields: the values of each field, as text.
        boundary: the delimiter between the parts.
    """

    fields: Mapping[str, list[str]]
    boundary: str

    @property
    def content_type(self) -> str:
        return f"{FORM_TYPE}; boundary={self.boundary}"

    def encode(self, file: FormFile) -> bytes:
        """Return the request body with this file."""
        return httpx.Request(
            "POST",
            "http://worker",
            headers={"content-type": self.content_type},
            data=dict(self.fields),
            files={FILE: (file.name, file.content, file.content_type)},
        ).read()

    async def encode_fetched(self, media: RequestMedia, _: bytes = b"") -> bytes:
        """Fetch the one file of `media` and return the request body with it.

        Raises:
            InvalidInput: the file cannot be fetched.
        """
        [(url, file)] = (await media.fetched()).items()
        name = url.partition("?")[0].rpartition("/")[2] or FormFile.name
        return self.encode(FormFile(file.content, name, file.content_type))


def parse_form(path: str, body: Mapping[str, Any]) -> tuple[Form, FormFile | str]:
    """Return the form for a JSON body, and its file or the file's URL.

    Raises:
        InvalidInput: `file` is missing or invalid, or another field has media.
    """
    for name in body:
        if name in MEDIA_FIELDS:
            raise InvalidInput(f"{path} has no field {name!r}: put the audio into file.", name)
    fields = {}
    for name, value in body.items():
        if name == FILE or value is None:
            continue
        values = value if isinstance(value, list) else [value]
        # OpenAI's clients add [] to the name of a list, and the engines expect that.
        spelled = f"{name}[]" if isinstance(value, list) and not name.endswith("[]") else name
        fields[spelled] = [_text(each) for each in values if each is not None]
    return Form(fields, secrets.token_hex(16)), _file(body.get(FILE))


def decode_form(body: bytes, content_type: str) -> dict[str, Any]:
    """Return the fields of a form like those of a JSON body; files are `FormFile`.

    Raises:
        InvalidInput: the body is not a valid form.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    boundary = _parameter(content_type, "boundary")
    if boundary is None:
        raise InvalidInput(f"The content type {FORM_TYPE} needs a boundary.", "body")
    reader = _FormReader()
    try:
        parser = MultipartParser(boundary.encode("latin-1"), reader.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, UnicodeError) as error:
        raise InvalidInput(f"The body is not a form: {error}.", "body") from error
    if not reader.is_complete:
        raise InvalidInput("The body is not a form: its closing boundary is missing.", "body")
    return reader.fields


class _FormReader:
    """Collects fields from the callbacks of the multipart parser."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.is_complete = False
        self._parts = 0
        self._headers: dict[str, str] = {}
        self._field = self._value = b""
        self._content = bytearray()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._on_end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_FIELDS:
            raise InvalidInput(f"A form may have at most {MAX_FIELDS} fields.", "body")
        self._headers = {}
        self._content = bytearray()

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = self._value.decode("utf-8")
        self._field = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _on_end(self) -> None:
        self.is_complete = True

    def _end(self) -> None:
        disposition = self._headers.get("content-disposition", "")
        name, file_name = _parameter(disposition, "name"), _parameter(disposition, "filename")
        if not name:
            raise InvalidInput("A part of the form has no field name.", "body")
        value: Any
        if file_name is not None:
            kind = self._headers.get("content-type", FormFile.content_type)
            value = FormFile(bytes(self._content), file_name or FormFile.name, kind)
        else:
            value = self._content.decode("utf-8")
        if name.endswith("[]"):
            self.fields.setdefault(name, []).append(value)
        elif name in self.fields:
            raise InvalidInput(f"The form has the field {name} more than once.", name)
        else:
            self.fields[name] = value


def _file(value: object) -> FormFile | str:
    if isinstance(value, FormFile):
        return value
    if not isinstance(value, str) or not value:
        raise InvalidInput("file must be base64 audio or the URL of an audio file.", FILE)
    if "://" in value[:MAX_SCHEME_CHARACTERS]:
        return value
    try:
        return FormFile(base64.b64decode(value.rpartition(",")[2], validate=True))
    except ValueError as error:
        raise InvalidInput(f"file is not base64: {error}.", FILE) from error


def _text(value: object) -> str:
    if isinstance(value, FormFile):
        raise InvalidInput("A form may have one file only, in the field file.", FILE)
    return value if isinstance(value, str) else json.dumps(value)


def _parameter(header: str, name: str) -> str | None:
    """Return a parameter of a header value, such as the boundary of a content type."""
    message = Message()
    message["x"] = header
    value = message.get_param(name, header="x")
    if value is None:
        return None
    return value[2] if isinstance(value, tuple) else str(value)
