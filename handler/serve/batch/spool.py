"""Numbered lines in a temporary file, because a batch may be larger than memory."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator

from handler.errors import RequestError

PIECE_BYTES = 1 << 18


class Spool:
    """Lines by number, added in any order and read in order of their numbers.

    Use as `with Spool() as spool`; leaving the context frees the disk.

    Attributes:
        bytes: the size of all lines with their line breaks.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 `__exit__` closes it
        self._spans: dict[int, tuple[int, int]] = {}  # number → offset, length
        self.bytes = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._spans)

    def __contains__(self, number: object) -> bool:
        return number in self._spans

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for number in sorted(self._spans):
            yield number, self.line(number)

    def add(self, number: int, line: bytes) -> None:
        """Add a line; each number only once.

        Raises:
            RequestError: the disk is full; the other lines are kept.
        """
        left, offset = memoryview(line + b"\n"), self.bytes
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, offset)
                left, offset = left[written:], offset + written
        except OSError as error:
            raise RequestError(f"The worker's disk is full: {error.strerror}.") from error
        self._spans[number] = (self.bytes, len(line))
        self.bytes = offset

    def line(self, number: int) -> bytes:
        """Return a line without its line break."""
        offset, length = self._spans[number]
        return os.pread(self._file.fileno(), length, offset)

    def content(self) -> tuple[int, AsyncIterator[bytes]]:
        """Return the size of the current content, and the content in chunks."""
        return self.bytes, self._pieces(sorted(self._spans))

    async def _pieces(self, numbers: list[int]) -> AsyncIterator[bytes]:
        piece = bytearray()
        for number in numbers:
            piece += self.line(number) + b"\n"
            if len(piece) >= PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)
