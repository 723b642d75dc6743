"""A batch's results as its job's output."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from handler.batch.spool import Spool
from handler.errors import InputTooLarge
from handler.stream import MAX_CHUNK_BYTES

MOST_BYTES = 10_000_000  # the platform's own limit on a job's input, for want of another
ENVELOPE_BYTES = 1_000  # of an output, beside its results


class Inline:
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
