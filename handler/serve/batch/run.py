"""A batch from its first line to its last: some lines at once, so that other jobs get their turn.

A line that fails costs itself. What ends the batch is its job's cancellation or timeout, an engine
that is gone, and results that nobody takes; what is done by then is saved where there is a place.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from handler.engine.deadline import Deadline
from handler.errors import InvalidLine
from handler.serve.batch import jsonl
from handler.serve.batch.input import BatchInput, earlier, source
from handler.serve.batch.jsonl import BatchLine
from handler.serve.batch.line import LineRunner
from handler.serve.batch.output import BatchOutput, sink
from handler.serve.batch.request import BatchRequest
from handler.serve.batch.spool import Spool

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 3.0

Counts = dict[str, int]
Tell = Callable[[Counts], Awaitable[None]]


class Batch:
    """One batch job.

    Args:
        order: what it asks for.
        name: the job's id.
        asker: asks a line.
        lines_at_once: how many lines the engine has at once.
        tell: is given the counts now and then, and at the end.
    """

    def __init__(
        self, order: BatchRequest, name: str, asker: LineRunner, lines_at_once: int, tell: Tell
    ) -> None:
        self._order = order
        self._name = name
        self._asker = asker
        self._lines_at_once = lines_at_once
        self._tell = tell
        self._counts = {"total": 0, "completed": 0, "failed": 0}
        self._told: Counts | None = None

    async def outputs(self, clock: Deadline) -> AsyncIterator[dict[str, Any]]:
        """Answer all lines, then give the job's outputs.

        Args:
            clock: of the whole job.

        Raises:
            RequestError: the batch as a whole has failed.
        """
        with contextlib.ExitStack() as stack:
            asked, before, results = (stack.enter_context(Spool()) for _ in range(3))
            target = sink(self._order.output_url, results)
            requests = await clock.bound(source(self._order, asked))
            self._counts["total"] = len(requests)
            if self._order.resume_url is not None:
                found = await clock.bound(earlier(self._order.resume_url, before))
                await self._resume(requests, found, before, results)
            await clock.bound(target.begin())
            try:
                await clock.bound(self._answer(requests, results, target))
                await target.finish()
            except BaseException:  # a cancellation above all
                await target.rescue()
                raise
            await self._tell_news()
            log.info("lines: %s", ", ".join(f"{n} {kind}" for kind, n in self._counts.items()))
            for output in target.outputs(self._counts):
                yield output

    async def _resume(
        self, requests: BatchInput, found: dict[str, int], before: Spool, results: Spool
    ) -> None:
        """Take over what an earlier run has answered, as it was."""
        for number, raw in requests if found else ():
            number_before = found.pop(jsonl.read(number, raw).custom_id or "", None)
            if number_before is not None:
                results.add(number, before.line(number_before))
            await asyncio.sleep(0)  # there may be many, and other jobs run here
        self._counts["completed"] = self._counts["resumed"] = len(results)

    async def _answer(self, requests: BatchInput, results: Spool, target: BatchOutput) -> None:
        left = _judged(requests)
        takers = [
            asyncio.create_task(self._take(left, results, target))
            for _ in range(min(self._lines_at_once, len(requests)))
        ]
        helpers = [
            asyncio.create_task(self._tell_regularly()),
            asyncio.create_task(target.save_regularly()),
        ]
        try:
            await asyncio.gather(*takers)
        finally:
            for task in (*takers, *helpers):
                task.cancel()
            await asyncio.gather(*takers, *helpers, return_exceptions=True)

    async def _take(self, left: Iterator[BatchLine], results: Spool, target: BatchOutput) -> None:
        """Answer one line after the other, as long as there are any."""
        for line in left:
            await asyncio.sleep(0)  # a thousand broken ones in a row would keep the loop
            if line.number in results:
                continue
            result, succeeded = await self._asker.result(line, self._name)
            results.add(line.number, result)
            self._counts["completed" if succeeded else "failed"] += 1
            if results.bytes > target.most_bytes:
                raise target.too_large()

    async def _tell_regularly(self) -> None:
        while True:
            await self._tell_news()
            await asyncio.sleep(PROGRESS_SECONDS)

    async def _tell_news(self) -> None:
        if self._counts == self._told:
            return
        self._told = dict(self._counts)
        try:
            await self._tell(self._told)
        except Exception:  # a batch goes on without anybody who looks
            log.exception("the progress was not told")


def _judged(requests: BatchInput) -> Iterator[BatchLine]:
    """Give the lines; one whose custom_id has been there is broken."""
    seen: dict[str, int] = {}
    for number, raw in requests:
        line = jsonl.read(number, raw)
        first = seen.setdefault(line.custom_id, number) if line.custom_id else number
        if first != number:
            fault = InvalidLine("duplicate_custom_id", f"has the custom_id of line {first}.")
            line = replace(line, fault=jsonl.numbered(number, fault))
        yield line
