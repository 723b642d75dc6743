"""A batch's results as its job's output."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from handler.engine.sse import MAX_CHUNK_BYTES
from handler.errors import InputTooLarge, InvalidInput
from handler.request.safe_fetch import SafeFetch
from handler.serve.batch.spool import Spool

MOST_BYTES = 10_000_000  # the platform's own limit on a job's input, for want of another
ENVELOPE_BYTES = 1_000  # of an output, beside its results


class InlineOutput:
    """Results are the job's output: one object, or several where a POST does not hold them.

    Args:
        results: that there are.
    """

    most_bytes = MOST_BYTES

    def __init__(self, results: Spool) -> None:
        self._results = results

    async def begin(self) -> None:
        """Nothing can be wrong."""

    async def save_regularly(self) -> None:
        """Nothing can be kept."""

    async def rescue(self) -> None:
        """Nothing can be kept."""

    async def finish(self) -> None:
        """They leave as outputs."""

    def outputs(self, counts: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        """Give the results in order; the last output has the counts as well."""
        group: list[Any] = []
        size_bytes = 0
        for _, line in self._results:
            if group and size_bytes + len(line) > MAX_CHUNK_BYTES - ENVELOPE_BYTES:
                yield {"results": group}
                group, size_bytes = [], 0
            group.append(json.loads(line))
            size_bytes += len(line) + 2
        yield {"batch": counts, "results": group}

    def too_large(self) -> InputTooLarge:
        """Name what would be right."""
        return InputTooLarge(
            f"The results have more than {self.most_bytes} bytes, which a job's output may not "
            "have: give an output_url.",
            "output_url",
        )


class BatchOutput(Protocol):
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


def sink(address: str | None, results: Spool) -> BatchOutput:
    """Return where the results go."""
    return InlineOutput(results) if address is None else UploadedOutput(address, results)


log = logging.getLogger(__name__)

MOST_BYTES = 1_000_000_000
SAVE_SECONDS = 15.0
SAVE_SHARE = 20  # of the time, at the most, goes into saving: one part in so many
PUT_SECONDS = 600.0
RESCUE_SECONDS = 30.0
PAUSES_SECONDS = (2.0, 3.0)  # between the tries of the last save


class UploadedOutput:
    """Results are put to an address.

    Args:
        address: takes a PUT.
        results: that there are.
    """

    most_bytes = MOST_BYTES

    def __init__(self, address: str, results: Spool) -> None:
        self._address = address
        self._results = results
        self._saved = -1  # how many results the last file had
        self._took_seconds = 0.0

    async def begin(self) -> None:
        """Put what is there, which is nothing, or what an earlier run had done.

        Raises:
            InvalidInput: the address does not take it.
        """
        await self._save()

    async def save_regularly(self) -> None:
        """Save now and then, less often where it takes long."""
        while True:
            await asyncio.sleep(max(SAVE_SECONDS, SAVE_SHARE * self._took_seconds))
            await self._try_to_save()

    async def rescue(self) -> None:
        """Save once more, within the little time that there may be."""
        try:
            async with asyncio.timeout(RESCUE_SECONDS):
                await self._try_to_save()
        except TimeoutError:
            log.warning("the results were not saved in %g s", RESCUE_SECONDS)

    async def finish(self) -> None:
        """Save all, with several tries.

        Raises:
            InvalidInput: the address does not take it.
        """
        for pause_seconds in (*PAUSES_SECONDS, None):
            try:
                return await self._save()
            except InvalidInput as error:
                if pause_seconds is None:
                    raise
                log.warning("%s Again in %g s", error, pause_seconds)
                await asyncio.sleep(pause_seconds)

    def outputs(self, counts: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        """Give the counts; the results are elsewhere."""
        yield {"batch": counts}

    def too_large(self) -> InputTooLarge:
        """Name what would be right."""
        return InputTooLarge(
            f"The results have more than {self.most_bytes} bytes: make several batches of this one."
        )

    async def _try_to_save(self) -> None:
        try:
            await self._save()
        except InvalidInput as error:
            log.warning("%s", error)

    async def _save(self) -> None:
        count = len(self._results)
        if count == self._saved:
            return
        began = time.monotonic()
        size_bytes, pieces = self._results.content()
        async with SafeFetch((), 0, PUT_SECONDS, "The output", "output_url") as web:
            await web.put(self._address, pieces, size_bytes)
        self._took_seconds = time.monotonic() - began
        self._saved = count
        log.info("saved %d results (%d bytes)", count, size_bytes)
