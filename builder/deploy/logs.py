"""Workers' logs, which the API streams as server-sent events."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from builder.cli import Console
from builder.deploy.api import Api
from builder.deploy.api_errors import error_of, unreachable
from builder.errors import NotFound


def print_logs(
    api: Api, urls: Mapping[str, str], options: argparse.Namespace, console: Console
) -> None:
    """Print the lines of one worker after another, or follow all at once.

    Args:
        api: for its timeouts and headers.
        urls: of the logs, by worker.
        options: `tail`, the number of existing lines; `source`, `follow`, and `worker`, which has
            to exist if it is given.
        console: for the lines.
    """

    async def print_all() -> None:
        idle_seconds = None if options.follow else api.timeouts.log_idle
        timeout = httpx.Timeout(api.timeouts.request, read=idle_seconds)
        async with (
            httpx.AsyncClient(headers=api.http.headers, timeout=timeout) as http,
            asyncio.TaskGroup() as group,
        ):
            reader = _LogReader(http, api.timeouts.retries, options, console)
            for worker, url in urls.items():
                task = group.create_task(reader.print_worker(worker, url))
                if not options.follow:
                    await asyncio.wait([task])

    try:
        asyncio.run(print_all())
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


@dataclass(frozen=True)
class _LogReader:
    http: httpx.AsyncClient
    retries: tuple[float, ...]
    options: argparse.Namespace
    console: Console

    async def print_worker(self, worker: str, url: str) -> None:
        """Print one worker's lines; a followed stream that breaks goes on where it broke."""
        follow, last_id, printed = self.options.follow, "", 0
        waits = iter(self.retries)
        while True:
            wait: float | None = self.retries[0]
            try:
                async for id, event in self._events(worker, url, last_id):
                    last_id, printed = id or str(event.get("ts", "")), printed + 1
                    waits = iter(self.retries)
                    line = f"{worker}  {event.get('ts', '')}  {event.get('line', '')}"
                    self.console.print(line.rstrip())
                    if printed == self.options.tail and not follow:
                        return
            except NotFound:
                if last_id:
                    return
                if self.options.worker:
                    raise
                self.console.print(f"{worker} has just ended, and its logs with it")
                return
            except httpx.ReadTimeout:
                return  # all existing lines have been read
            except httpx.RequestError as error:
                wait = next(waits, None)
                if not follow or wait is None:
                    raise unreachable(error) from error
            if not follow or wait is None:
                return
            await asyncio.sleep(wait)

    async def _events(
        self, worker: str, url: str, last_id: str
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Give each event's id and its JSON object; other lines are skipped."""
        params = {"tail": self.options.tail, "source": self.options.source}
        params = {name: value for name, value in params.items() if value is not None}
        headers = {"last-event-id": last_id} if last_id else {}
        async with self.http.stream("GET", url, params=params, headers=headers) as answer:
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
                        yield id, event
