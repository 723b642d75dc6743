"""Where a batch's results go: into its job's output, or to an address."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from handler.batch.inline import Inline
from handler.batch.spool import Spool
from handler.batch.upload import Upload
from handler.errors import InputTooLarge


class Sink(Protocol):
    """Takes results that are in the spool."""

    most_bytes: int
    """Of all results."""

    async def begin(self) -> None:
        """Find out whether it can be done, before any line is asked.

        Raises:
            InvalidInput: it cannot.
        """

    async def save_regularly(self) -> None:
        """Keep what is done safe, until cancelled."""

    async def rescue(self) -> None:
        """Keep what is done safe: the batch is cut off."""

    async def finish(self) -> None:
        """Deliver all.

        Raises:
            InvalidInput: it cannot be done.
        """

    def outputs(self, counts: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        """Give the job's outputs."""

    def too_large(self) -> InputTooLarge:
        """Return the error of a batch whose results are more than `most_bytes`."""


def sink(address: str | None, results: Spool) -> Sink:
    """Return where the results go."""
    return Inline(results) if address is None else Upload(address, results)
