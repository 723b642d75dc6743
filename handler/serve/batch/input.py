"""The input of a batch: its lines, from the job or a URL, and the results of an earlier run.

A URL is downloaded to a file before the first line runs. So the number of lines is known, and no
connection must stay open for hours.
"""

import logging
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from handler.errors import InputTooLarge, InvalidInput, UrlNotFound
from handler.request.safe_fetch import SafeFetch
from handler.serve.batch.jsonl import MAX_LINE_BYTES, succeeded_id
from handler.serve.batch.request import MAX_LINES, BatchRequest
from handler.serve.batch.spool import Spool

log = logging.getLogger(__name__)

MAX_INPUT_BYTES = 200_000_000  # OpenAI's limit
MAX_EARLIER_OUTPUT_BYTES = 1_000_000_000
FETCH_TIMEOUT_SECONDS = 600.0


class BatchInput(Protocol):
    """Numbered lines, as JSON bytes or decoded values; may be iterated several times."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[int, Any]]: ...


class InlineInput:
    """Lines in the job's input."""

    def __init__(self, lines: list[Any]) -> None:
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return enumerate(self._lines, 1)


class LineSplitter:
    """Splits bytes, which arrive in chunks of any size, into lines.

    Args:
        on_line: called with the number and content of each line that is not blank. A longer line is
            cut to `MAX_LINE_BYTES` + 1 bytes, so that the parser rejects it.
    """

    def __init__(self, on_line: Callable[[int, bytes], object]) -> None:
        self._on_line = on_line
        self._number = 1
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._append(piece)
            self.end()
        self._append(rest)

    def end(self) -> None:
        """End the current line."""
        line = bytes(self._rest)
        if self._number == 1:
            line = line.removeprefix(BOM_UTF8)
        if line.strip():
            self._on_line(self._number, line)
        self._number += 1
        self._rest.clear()

    def _append(self, data: bytes) -> None:
        self._rest += data[: MAX_LINE_BYTES + 1 - len(self._rest)]


async def open_input(request: BatchRequest, spool: Spool) -> BatchInput:
    """Return the lines of a batch; lines of a URL are stored in `spool`.

    Raises:
        RequestError: the lines cannot be fetched, or there are too many or none.
    """
    if request.url is None:
        return InlineInput(request.requests or [])

    def add(number: int, line: bytes) -> None:
        if len(spool) == MAX_LINES:
            raise InputTooLarge(f"The batch has more than {MAX_LINES} lines.", "url")
        spool.add(number, line)

    await _fetch(request.url, add, what="The batch", param="url", max_bytes=MAX_INPUT_BYTES)
    if not len(spool):
        raise InvalidInput("The batch has no lines.", "url")
    return spool


async def fetch_earlier_results(url: str, spool: Spool) -> dict[str, int]:
    """Store the successful results of an earlier run in `spool`; return their numbers by custom_id.

    A URL that answers 404 means that there was no earlier run.

    Raises:
        InvalidInput: the results cannot be fetched, or there are too many.
    """
    numbers: dict[str, int] = {}

    def add(number: int, line: bytes) -> None:
        if number > MAX_LINES:
            raise InvalidInput(f"The earlier output has more than {MAX_LINES} lines.", "resume_url")
        if (custom_id := succeeded_id(line)) is not None and custom_id not in numbers:
            spool.add(number, line)
            numbers[custom_id] = number

    try:
        await _fetch(
            url,
            add,
            what="The earlier output",
            param="resume_url",
            max_bytes=MAX_EARLIER_OUTPUT_BYTES,
        )
    except UrlNotFound:
        log.info("resume_url has no earlier output: all lines run")
    return numbers


async def _fetch(
    url: str, on_line: Callable[[int, bytes], object], *, what: str, param: str, max_bytes: int
) -> None:
    splitter = LineSplitter(on_line)
    async with SafeFetch(
        max_bytes=max_bytes, timeout_seconds=FETCH_TIMEOUT_SECONDS, what=what, param=param
    ) as web:
        await web.fetch(url, splitter.feed)
    splitter.end()
