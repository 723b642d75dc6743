"""Documents in text files, and their tokens cut into windows of one length.

A document is a text, or a chat that the model's own template renders.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import InvalidArgument

Document = str | list[dict[str, Any]]

TEXT_SUFFIXES = (".jsonl", ".txt", ".parquet")
COLUMNS = ("text", "messages")
HELD_OUT_DIVISOR = 10  # one document in ten
ROW_FORMAT = '{"text": "…"} or {"messages": [{"role": "user", "content": "…"}]}'
SEED = 0
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class TextFile:
    """A file of text, to calibrate with or to measure perplexity on; `name` is its display name."""

    path: Path
    name: str
    sha256: str

    @property
    def identity(self) -> str:
        return f"{self.name} sha256:{self.sha256}"


def calibration_and_held_out(
    dataset: TextFile | None, held_out: TextFile
) -> tuple[list[Document], list[Document]]:
    """Return the documents that calibrate and those that are held out, which are disjoint.

    The last tenth of a data set is held out where `held_out` is the data set itself.

    Raises:
        InvalidArgument: a file has no text, or too little.
    """
    if dataset is None:
        return [], read_documents(held_out.path)
    documents = read_documents(dataset.path)
    if held_out == dataset:
        documents, measured = split_held_out(documents, dataset.name)
    else:
        measured = read_documents(held_out.path)
    return shuffled(without_held_out(documents, measured, dataset.name)), measured


def read_documents(path: Path) -> list[Document]:
    """Read a file of documents: JSON lines, paragraphs of plain text, or rows of Parquet.

    Raises:
        InvalidArgument: another suffix, an empty file, or an invalid line, with its number.
        OSError: the file cannot be read.
    """
    readers = {".jsonl": _json_lines, ".txt": _paragraphs, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise InvalidArgument(f"{path} must be a .jsonl, .txt or .parquet file.")
    try:
        documents = list(readers[path.suffix](path))
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not UTF-8: invalid byte at {error.start}.") from error
    if not documents:
        raise InvalidArgument(f"{path} has no text.")
    return documents


def split_held_out(
    documents: Sequence[Document], name: str
) -> tuple[list[Document], list[Document]]:
    """Return all but the last tenth, and the last tenth, to measure perplexity on."""
    if len(documents) < 2:
        raise InvalidArgument(
            f"{name} has one document, so nothing can be held out: give --held-out FILE."
        )
    count = max(1, len(documents) // HELD_OUT_DIVISOR)
    return list(documents[:-count]), list(documents[-count:])


def without_held_out(
    documents: Sequence[Document], held_out: Sequence[Document], name: str
) -> list[Document]:
    """Return the documents that are not held out; a data set may have duplicates."""
    known = {json.dumps(document, sort_keys=True) for document in held_out}
    left = [each for each in documents if json.dumps(each, sort_keys=True) not in known]
    if not left:
        raise InvalidArgument(f"every document of {name} is held out: give another --held-out.")
    return left


def shuffled(documents: Sequence[Document]) -> list[Document]:
    """Return the documents in an order that is the same in every run."""
    mixed = list(documents)
    random.Random(SEED).shuffle(mixed)
    return mixed


def token_windows(
    documents: Sequence[Document], tokenizer: Any, tokens: int, max_windows: int
) -> list[list[int]]:
    """Cut the documents' tokens, one after the other, into windows.

    Args:
        documents: in the order in which they are used.
        tokenizer: the model's, of transformers.
        tokens: length of a window; the last one may be shorter.
        max_windows: their maximum number.

    Raises:
        InvalidArgument: too little text, or a chat that the model's template cannot render.
    """
    # The token that begins every text of this model, if it has one.
    start = list(tokenizer("")["input_ids"])
    start = start if start == [tokenizer.bos_token_id] else []
    size = tokens - len(start)
    stream: list[int] = []
    for document in documents:
        stream += tokenizer(_rendered(document, tokenizer), add_special_tokens=False)["input_ids"]
        if len(stream) >= size * max_windows:
            break
    windows = [start + stream[i : i + size] for i in range(0, len(stream), size)][:max_windows]
    windows = [window for window in windows if len(window) > 1]  # one token predicts nothing
    if not windows:
        raise InvalidArgument("the text has fewer than two tokens: give more of it.")
    return windows


def _rendered(document: Document, tokenizer: Any) -> str:
    if isinstance(document, str):
        return document + SEPARATOR
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(document, tokenize=False))
    except (TemplateError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidArgument(
            f"the model's chat template cannot render a chat: {reason}"
        ) from error


def _json_lines(path: Path) -> Iterable[Document]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidArgument(
                    f"{path}, line {number} is not JSON: it must be {ROW_FORMAT}."
                ) from error
            yield _document(row, f"{path}, line {number}")


def _paragraphs(path: Path) -> Iterable[Document]:
    lines: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in [*file, ""]:
            if line.strip():
                lines.append(line)
            elif lines:
                yield "".join(lines).rstrip()
                lines = []


def _parquet_rows(path: Path) -> Iterable[Document]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        columns = [column for column in COLUMNS if column in file.schema_arrow.names][:1]
        if not columns:
            raise InvalidArgument(f"{path} must have a column {' or '.join(COLUMNS)}.")
        number = 0
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield _document(row, f"{path}, row {number}")
    except pyarrow.ArrowException as error:
        raise InvalidArgument(f"{path} is not a Parquet file.") from error


def _document(row: Any, source: str) -> Document:
    if isinstance(row, dict):
        text, messages = row.get("text"), row.get("messages")
        if isinstance(text, str) and text.strip():
            return text
        if isinstance(messages, list) and messages and all(map(_is_message, messages)):
            return messages
    raise InvalidArgument(f"{source} has no text: it must be {ROW_FORMAT}.")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)
