"""The output of a batch: in the job's output, or as a file that is uploaded to a URL."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from handler.engine.awake_clock import AwakeTimeout
from handler.errors import InputTooLarge, InvalidInput
from handler.request.safe_fetch import SafeFetch
from handler.serve.batch.spool import Spool
from handler.serve.stream_chunks import MAX_CHUNK_BYTES

log = logging.getLogger(__name__)

MAX_INLINE_BYTES = 10_000_000  # the platform's limit on a job's input; none is known for its output
ENVELOPE_BYTES = 1_000  # for the rest of an output beside its results
MAX_UPLOAD_BYTES = 1_000_000_000
MIN_SAVE_INTERVAL_SECONDS = 15.0
MAX_SAVE_SHARE = 1 / 20  # of the batch's time
UPLOAD_TIMEOUT_SECONDS = 600.0
RESCUE_TIMEOUT_SECONDS = 30.0
RETRY_PAUSES_SECONDS = (2.0, 3.0)  # between attempts of the final upload


class BatchOutput(Protocol):
    """Delivers the results in a spool."""

    max_bytes: int
    """The limit for all results together."""

    async def begin(self) -> None:
        """Check before the first line that results can be delivered.

        Raises:
            InvalidInput: they cannot be delivered.
        """

    async def save_regularly(self) -> None:
        """Save the results so far at intervals, until cancelled."""

    async def rescue(self) -> None:
        """Save the results so far of an interrupted batch."""

    async def finish(self) -> None:
        """Deliver all results.

        Raises:
            InvalidInput: they cannot be delivered.
        """

    def outputs(self, counts: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        """Yield the job's outputs."""

    def too_large(self) -> InputTooLarge:
        """Return the error for results over `max_bytes`."""


def open_output(url: str | None, results: Spool) -> BatchOutput:
    """Return the output for a batch's `output_url`."""
    return InlineOutput(results) if url is None else UploadedOutput(url, results)


class InlineOutput:
    """Results in the job's output: one object, or several if one POST is too small."""

    max_bytes = MAX_INLINE_BYTES

    def __init__(self, results: Spool) -> None:
        self._results = results

    async def begin(self) -> None:
        pass

    async def save_regularly(self) -> None:
        pass

    async def rescue(self) -> None:
        pass

    async def finish(self) -> None:
        pass

    def outputs(self, counts: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        """Yield the results in order; the last output also has the counts."""
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
        return InputTooLarge(
            f"The results have more than {self.max_bytes} bytes, the limit for a job's output: set "
            "output_url.",
            "output_url",
        )


class UploadedOutput:
    """Results as a file at a URL.

    A presigned URL can only replace a whole file, so the file is uploaded again at intervals. An
    interrupted batch can then resume from it.
    """

    max_bytes = MAX_UPLOAD_BYTES

    def __init__(self, url: str, results: Spool) -> None:
        self._url = url
        self._results = results
        self._saved_results = -1  # results in the last upload
        self._save_seconds = 0.0

    async def begin(self) -> None:
        await self._save()

    async def save_regularly(self) -> None:
        while True:
            interval_seconds = max(MIN_SAVE_INTERVAL_SECONDS, self._save_seconds / MAX_SAVE_SHARE)
            await asyncio.sleep(interval_seconds)
            await self._try_to_save()

    async def rescue(self) -> None:
        try:
            async with AwakeTimeout(RESCUE_TIMEOUT_SECONDS):
                await self._try_to_save()
        except TimeoutError:
            log.warning("the results were not saved in %g s", RESCUE_TIMEOUT_SECONDS)

    async def finish(self) -> None:
        for pause_seconds in (*RETRY_PAUSES_SECONDS, None):
            try:
                return await self._save()
            except InvalidInput as error:
                if pause_seconds is None:
                    raise
                log.warning("%s Trying again in %g s", error, pause_seconds)
                await asyncio.sleep(pause_seconds)

    def outputs(self, counts: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        yield {"batch": counts}

    def too_large(self) -> InputTooLarge:
        return InputTooLarge(
            f"The results have more than {self.max_bytes} bytes: split the batch into several."
        )

    async def _try_to_save(self) -> None:
        try:
            await self._save()
        except InvalidInput as error:
            log.warning("%s", error)

    async def _save(self) -> None:
        count = len(self._results)
        if count == self._saved_results:
            return
        started = time.monotonic()
        size_bytes, pieces = self._results.content()
        async with SafeFetch(
            timeout_seconds=UPLOAD_TIMEOUT_SECONDS, what="The output", param="output_url"
        ) as web:
            await web.put(self._url, pieces, size_bytes)
        self._save_seconds = time.monotonic() - started
        self._saved_results = count
        log.info("saved %d results (%d bytes)", count, size_bytes)
