"""A batch's results as a file at an address.

The whole file of what is done is put again and again: a presigned address can do nothing else. So
what a batch had done before it was cut off is there, and need not be asked again.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from handler.batch.spool import Spool
from handler.errors import InputTooLarge, InvalidInput
from handler.public import PublicWeb

log = logging.getLogger(__name__)

MOST_BYTES = 1_000_000_000
SAVE_SECONDS = 15.0
SAVE_SHARE = 20  # of the time, at the most, goes into saving: one part in so many
PUT_SECONDS = 600.0
RESCUE_SECONDS = 30.0
PAUSES_SECONDS = (2.0, 3.0)  # between the tries of the last save


class Upload:
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
        async with PublicWeb((), 0, PUT_SECONDS, "The output", "output_url") as web:
            await web.put(self._address, pieces, size_bytes)
        self._took_seconds = time.monotonic() - began
        self._saved = count
        log.info("saved %d results (%d bytes)", count, size_bytes)
