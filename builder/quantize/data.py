"""Text to calibrate with and to compare on: documents out of a file.

A document is a text, or a chat that the model's own template turns into one. Where the file comes
from it does not know.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from builder.errors import InvalidArgument

Document = str | list[dict[str, Any]]

SUFFIXES = (".jsonl", ".txt", ".parquet")
COLUMNS = ("text", "messages")
HELD_OUT_PART = 10  # one in ten
SHAPES = '{"text": "…"} or {"messages": [{"role": "user", "content": "…"}]}'


def documents(path: Path) -> list[Document]:
    """Read a file of documents: lines of JSON, paragraphs of plain text, or rows of Parquet.

    Raises:
        InvalidArgument: it is none of these, or empty; a line that is broken, with its number.
        OSError: it cannot be read.
    """
    if path.suffix not in SUFFIXES:
        raise InvalidArgument(f"{path} should end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    try:
        found = list(_READERS[path.suffix](path))
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{path} is not text in UTF-8: byte {error.start} is wrong."
        ) from error
    if not found:
        raise InvalidArgument(f"{path} is empty: it should hold text.")
    return found


def split(found: Sequence[Document], name: str) -> tuple[list[Document], list[Document]]:
    """Keep the last tenth apart, to compare on: what calibrates says nothing of the loss.

    Raises:
        InvalidArgument: one document does not divide.
    """
    if len(found) < 2:
        raise InvalidArgument(
            f"{name} has one document, of which nothing can be kept apart to compare on: give "
            "--held-out FILE."
        )
    count = max(1, len(found) // HELD_OUT_PART)
    return list(found[:-count]), list(found[-count:])


def without(found: Sequence[Document], others: Sequence[Document], name: str) -> list[Document]:
    """Leave out the documents that are among others: a data set may repeat itself.

    Raises:
        InvalidArgument: nothing is left.
    """
    known = {json.dumps(other, sort_keys=True) for other in others}
    left = [one for one in found if json.dumps(one, sort_keys=True) not in known]
    if not left:
        raise InvalidArgument(f"{name} has nothing that is not held out: give another --held-out.")
    return left


def _lines(path: Path) -> Iterable[Document]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidArgument(
                    f"{path}, line {number} is no JSON: it should be {SHAPES}."
                ) from error
            yield _document(row, f"{path}, line {number}")


def _paragraphs(path: Path) -> Iterable[Document]:
    lines: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                lines.append(line)
            elif lines:
                yield "".join(lines).rstrip()
                lines = []
    if lines:
        yield "".join(lines).rstrip()


def _rows(path: Path) -> Iterable[Document]:
    import pyarrow  # type: ignore[import-not-found]
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        columns = [column for column in COLUMNS if column in file.schema_arrow.names][:1]
        if not columns:
            raise InvalidArgument(f"{path} should have a column {' or '.join(COLUMNS)}.")
        number = 0
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield _document(row, f"{path}, row {number}")
    except pyarrow.ArrowException as error:
        raise InvalidArgument(f"{path} is no Parquet file.") from error


_READERS = {".jsonl": _lines, ".txt": _paragraphs, ".parquet": _rows}


def _document(row: Any, where: str) -> Document:
    """Take the text or the chat out of a row."""
    if isinstance(row, dict):
        text, messages = row.get("text"), row.get("messages")
        if isinstance(text, str) and text.strip():
            return text
        if isinstance(messages, list) and messages and all(map(_is_message, messages)):
            return messages
    raise InvalidArgument(f"{where} has no text: it should be {SHAPES}.")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)
