"""Workers' logs, which the API streams as server-sent events."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import httpx

from builder.cli import Console
from builder.deploy.api import Api
from builder.deploy.api_errors import Json, error_of, unreachable
from builder.errors import NotFound


@dataclass(frozen=True)
class LogPrinter:
    """Prints the logs of an endpoint's workers.

    Attributes:
        options: `tail`, the number of existing lines; `source`, `follow`, and `worker`, which
            must exist if it is set.
    """

    api: Api
    endpoint_id: str
    options: argparse.Namespace
    console: Console

    def print_all(self, workers: Iterable[str]) -> None:
        """Print the lines of one worker after another, or follow all at once."""
        asyncio.run(self._print_all(workers))

    async def _print_all(self, workers: Iterable[str]) -> None:
        idle_seconds = None if self.options.follow else self.api.timeouts.log_idle
        timeout = httpx.Timeout(self.api.timeouts.request, read=idle_seconds)
        async with httpx.AsyncClient(headers=self.api.http.headers, timeout=timeout) as http:
            if self.options.follow:
                await asyncio.gather(*(self._print_worker(http, worker) for worker in workers))
                return
            for worker in workers:
                await self._print_worker(http, worker)

    async def _print_worker(self, http: httpx.AsyncClient, worker: str) -> None:
        """Print one worker's lines; with --follow, a broken stream is resumed."""
        follow, retries = self.options.follow, self.api.timeouts.retries
        last_id, lines, failures = "", 0, 0
        while True:
            try:
                async for id, event in self._events(http, worker, last_id):
                    last_id, lines, failures = id, lines + 1, 0
                    line = f"{worker}  {event.get('ts', '')}  {event.get('line', '')}".rstrip()
                    # Not the console's `print`: when stdout is closed, this command ends.
                    print(self.console.without_secrets(line), flush=True)
                    if lines == self.options.tail and not follow:
                        return
            except NotFound:
                if not last_id and self.options.worker:
                    raise
                if not last_id:
                    self.console.print(f"{worker} has just ended, so its logs are gone")
                return
            except httpx.ReadTimeout:
                return  # all existing lines have been read
            except httpx.RequestError as error:
                failures += 1
                if not follow or failures > len(retries):
                    raise unreachable(error) from error
            if not follow:
                return
            await asyncio.sleep(retries[max(failures - 1, 0)])

    async def _events(
        self, http: httpx.AsyncClient, worker: str, last_id: str
    ) -> AsyncIterator[tuple[str, Json]]:
        """Yield each event's id (or its time) and its JSON object; other lines are skipped."""
        params = {"tail": self.options.tail, "source": self.options.source}
        params = {name: value for name, value in params.items() if value is not None}
        headers = {"last-event-id": last_id} if last_id else {}
        url = self.api.logs_url(self.endpoint_id, worker)
        async with http.stream("GET", url, params=params, headers=headers) as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise error_of(answer, f"worker {worker}")
            id = ""
            async for line in answer.aiter_lines():
                name, _, value = line.partition(":")
                if name == "id":
                    id = value.strip()
                elif name == "data":
                    try:
                        event = json.loads(value)
                    except ValueError:
                        continue
                    if isinstance(event, dict):
                        yield id or str(event.get("ts", "")), event
