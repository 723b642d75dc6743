"""Where a batch's lines come from: the job, or an address; and what an earlier run has answered.

What an address gives is kept in a file before the first line is asked: no server holds a connection
open for the hours that a batch may take, and the number of lines is known.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from handler.errors import InputTooLarge, InvalidInput, UrlNotFound
from handler.request.safe_fetch import SafeFetch
from handler.serve.batch.jsonl import MOST_LINE_BYTES, succeeded
from handler.serve.batch.request import MOST_LINES, BatchRequest
from handler.serve.batch.spool import Spool

log = logging.getLogger(__name__)

MOST_INPUT_BYTES = 200_000_000  # OpenAI's
MOST_OUTPUT_BYTES = 1_000_000_000
FETCH_SECONDS = 600.0


class BatchInput(Protocol):
    """Lines with their numbers; what is no bytes is decoded JSON."""

    def __len__(self) -> int:
        """How many there are."""

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Give them in order, any number of times."""


class LineSplitter:
    """Cuts what comes in pieces into lines.

    Args:
        take: is given each line with its number, none that is empty. Of one that is too long it
            gets one byte more than may be.
    """

    def __init__(self, take: Callable[[int, bytes], object]) -> None:
        self._take = take
        self._number = 1
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        """Take a piece."""
        *whole, rest = data.split(b"\n")
        for end in whole:
            self._add(end)
            self.end()
        self._add(rest)

    def end(self) -> None:
        """End the line that is open."""
        line = bytes(self._rest)
        if line.strip():
            self._take(self._number, line)
        self._number += 1
        self._rest.clear()

    def _add(self, data: bytes) -> None:
        self._rest += data[: MOST_LINE_BYTES + 1 - len(self._rest)]


async def source(order: BatchRequest, spool: Spool) -> BatchInput:
    """Return the lines of a batch.

    Args:
        order: the batch.
        spool: keeps them where they come from an address.

    Raises:
        RequestError: they cannot be had.
    """
    if order.url is None:
        return InlineInput(order.requests or [])

    def take(number: int, line: bytes) -> None:
        if len(spool) == MOST_LINES:
            raise InputTooLarge(f"The batch has more than {MOST_LINES} lines.", "url")
        spool.add(number, line)

    await _fetch(order.url, MOST_INPUT_BYTES, take, "The batch", "url")
    if not len(spool):
        raise InvalidInput("The batch has no line.", "url")
    return spool


async def earlier(address: str, spool: Spool) -> dict[str, int]:
    """Return the numbers in the spool of what an earlier run has answered, by custom_id.

    Nothing at the address is what a first run finds there.

    Raises:
        InvalidInput: it cannot be fetched, or is of more lines than a batch may have.
    """
    found: dict[str, int] = {}

    def take(number: int, line: bytes) -> None:
        if number > MOST_LINES:
            raise InvalidInput(
                f"The earlier output has more than {MOST_LINES} lines, the most of a batch.",
                "resume_url",
            )
        if (custom_id := succeeded(line)) is not None and custom_id not in found:
            spool.add(number, line)
            found[custom_id] = number

    try:
        await _fetch(address, MOST_OUTPUT_BYTES, take, "The earlier output", "resume_url")
    except UrlNotFound:
        log.info("there is no earlier output to resume from")
    return found


class InlineInput:
    """Lines that stand in the job.

    Args:
        requests: the lines, decoded.
    """

    def __init__(self, requests: list[Any]) -> None:
        self._requests = requests

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Give each line with its number."""
        return enumerate(self._requests, 1)


async def _fetch(
    address: str, most_bytes: int, take: Callable[[int, bytes], object], what: str, param: str
) -> None:
    cutter = LineSplitter(take)
    async with SafeFetch((), most_bytes, FETCH_SECONDS, what, param) as web:
        await web.fetch(address, cutter.feed)
    cutter.end()
