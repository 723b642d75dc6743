"""The run of a batch, with limited concurrency, so that other jobs can run beside it.

A failed line does not stop the batch. It ends early when its job is cancelled or times out, when
the engine dies, or when the results cannot be delivered; the results so far are saved if possible.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from handler.engine.call.deadline import Deadline
from handler.errors import InvalidLine
from handler.serve.batch.input import BatchInput, fetch_earlier_results, open_input
from handler.serve.batch.jsonl import BatchLine, numbered, parse_line
from handler.serve.batch.line import LineRunner
from handler.serve.batch.output import BatchOutput, open_output
from handler.serve.batch.request import BatchRequest
from handler.serve.batch.spool import Spool

log = logging.getLogger(__name__)

PROGRESS_INTERVAL_SECONDS = 3.0

BatchCounts = dict[str, int]
"""The numbers of lines: total, completed, failed, and resumed if there is a resume_url."""


class Batch:
    """One batch job.

    Args:
        request: the job's input.
        job_id: the job's id.
        line_runner: runs a line.
        concurrency: the number of concurrent lines.
        report_progress: awaited with the counts at intervals, and at the end.
    """

    def __init__(
        self,
        request: BatchRequest,
        *,
        job_id: str,
        line_runner: LineRunner,
        concurrency: int,
        report_progress: Callable[[BatchCounts], Awaitable[None]],
    ) -> None:
        self._request = request
        self._job_id = job_id
        self._line_runner = line_runner
        self._concurrency = concurrency
        self._report_progress = report_progress
        self._counts = {"total": 0, "completed": 0, "failed": 0}
        self._reported: BatchCounts | None = None

    async def outputs(self, deadline: Deadline) -> AsyncIterator[dict[str, Any]]:
        """Run all lines, then yield the job's outputs.

        Raises:
            RequestError: the whole batch has failed.
        """
        with contextlib.ExitStack() as stack:
            lines, earlier, results = (stack.enter_context(Spool()) for _ in range(3))
            output = open_output(self._request.output_url, results)
            requests = await deadline.wait_for(open_input(self._request, lines))
            self._counts["total"] = len(requests)
            if self._request.resume_url is not None:
                fetch = fetch_earlier_results(self._request.resume_url, earlier)
                await self._resume(requests, await deadline.wait_for(fetch), earlier, results)
            await deadline.wait_for(output.begin())
            try:
                await deadline.wait_for(self._answer_lines(requests, results, output))
                await output.finish()
            except BaseException:  # includes a cancellation
                await output.rescue()
                raise
            await self._report()
            log.info("lines: %s", ", ".join(f"{n} {kind}" for kind, n in self._counts.items()))
            for each in output.outputs(self._counts):
                yield each

    async def _resume(
        self, requests: BatchInput, numbers: dict[str, int], earlier: Spool, results: Spool
    ) -> None:
        """Copy the results of an earlier run."""
        for number, raw in requests if numbers else ():
            earlier_number = numbers.pop(parse_line(number, raw).custom_id or "", None)
            if earlier_number is not None:
                results.add(number, earlier.line(earlier_number))
            await asyncio.sleep(0)  # other jobs run on this loop, and there may be many lines
        self._counts["completed"] = self._counts["resumed"] = len(results)

    async def _answer_lines(
        self, requests: BatchInput, results: Spool, output: BatchOutput
    ) -> None:
        lines = _unique_lines(requests)
        runners = [
            asyncio.create_task(self._run_lines(lines, results, output))
            for _ in range(min(self._concurrency, len(requests)))
        ]
        helpers = [
            asyncio.create_task(self._report_regularly()),
            asyncio.create_task(output.save_regularly()),
        ]
        try:
            await asyncio.gather(*runners)
        finally:
            for task in (*runners, *helpers):
                task.cancel()
            await asyncio.gather(*runners, *helpers, return_exceptions=True)

    async def _run_lines(
        self, lines: Iterator[BatchLine], results: Spool, output: BatchOutput
    ) -> None:
        for line in lines:
            await asyncio.sleep(0)  # many invalid lines in a row would block the loop
            if line.number in results:
                continue
            result, succeeded = await self._line_runner.result(line, self._job_id)
            results.add(line.number, result)
            self._counts["completed" if succeeded else "failed"] += 1
            if results.bytes > output.max_bytes:
                raise output.too_large()

    async def _report_regularly(self) -> None:
        while True:
            await self._report()
            await asyncio.sleep(PROGRESS_INTERVAL_SECONDS)

    async def _report(self) -> None:
        if self._counts == self._reported:
            return
        self._reported = dict(self._counts)
        try:
            await self._report_progress(self._reported)
        except Exception:  # the batch does not need its progress reports
            log.exception("the progress report of the batch failed")


def _unique_lines(requests: BatchInput) -> Iterator[BatchLine]:
    """Yield the lines; a line with the custom_id of an earlier one is invalid."""
    first_numbers: dict[str, int] = {}
    for number, raw in requests:
        line = parse_line(number, raw)
        first = first_numbers.setdefault(line.custom_id, number) if line.custom_id else number
        if first != number:
            error = InvalidLine("duplicate_custom_id", f"has the custom_id of line {first}.")
            line = replace(line, error=numbered(number, error))
        yield line
