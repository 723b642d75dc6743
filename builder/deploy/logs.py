"""`logs`: workers' logs, which the API streams as server-sent events."""

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx

from builder.cli import Console
from builder.deploy.api import Api
from builder.deploy.api_errors import Json, error_of, unreachable
from builder.errors import NotFound


def print_logs(options: argparse.Namespace, api: Api, console: Console) -> None:
    """Print the lines of one worker after another, or follow all at once."""
    id = api.endpoint(options.name)["id"]
    workers = [options.worker] if options.worker else []
    workers = workers or [each["id"] for each in api.workers(id).get("workers", ())]
    if not workers:
        console.print(f"{options.name} has no worker at the moment, and so no logs")
    params = {"tail": options.tail} | ({"source": options.source} if options.source else {})

    async def print_all() -> None:
        async with httpx.AsyncClient(
            base_url=api.http.base_url.join(f"serverless/{id}/workers"),
            headers=api.http.headers,
            params=params,
            timeout=httpx.Timeout(api.timeouts.request, read=None),
        ) as http:
            for group in [workers] if options.follow else [[worker] for worker in workers]:
                await asyncio.gather(
                    *(_print_worker(http, worker, options, api, console) for worker in group)
                )

    asyncio.run(print_all())


async def _print_worker(
    http: httpx.AsyncClient,
    worker: str,
    options: argparse.Namespace,
    api: Api,
    console: Console,
) -> None:
    """Print one worker's lines; with --follow, a broken stream is resumed."""
    last_id, lines, failures, retries = "", 0, 0, api.timeouts.retries
    idle_seconds = None if options.follow else api.timeouts.log_idle
    while True:
        try:
            async for id, event in _events(
                http, worker, last_id, api.timeouts.request, idle_seconds
            ):
                last_id, lines, failures = id, lines + 1, 0
                line = f"{worker}  {event.get('ts', '')}  {event.get('line', '')}".rstrip()
                # Not the console's `print`: when stdout is closed, this command ends.
                print(console.without_secrets(line), flush=True)
                if lines == options.tail and not options.follow:
                    return
        except NotFound:
            if not last_id and options.worker:
                raise
            if not last_id:
                console.print(f"{worker} has just ended, so its logs are gone")
            return
        except TimeoutError:
            return  # all existing lines have been read
        except httpx.RequestError as error:
            failures += 1
            if not options.follow or failures > len(retries):
                raise unreachable(error) from error
        if not options.follow:
            return
        await asyncio.sleep(retries[max(failures - 1, 0)])


async def _events(
    http: httpx.AsyncClient,
    worker: str,
    last_id: str,
    answer_seconds: float,
    idle_seconds: float | None,
) -> AsyncIterator[tuple[str, Json]]:
    """Yield each event's id (or its time) and its JSON object; other lines are skipped.

    Raises:
        httpx.ReadTimeout: no answer has begun.
        TimeoutError: no line has come for `idle_seconds`.
    """
    headers = {"last-event-id": last_id} if last_id else {}
    path = f"{quote(worker, safe='')}/logs"
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(answer_seconds):
                answer = await stack.enter_async_context(http.stream("GET", path, headers=headers))
        except TimeoutError:
            raise httpx.ReadTimeout(f"no answer in {answer_seconds:g} s") from None
        if answer.status_code != 200:
            await answer.aread()
            raise error_of(answer, f"worker {worker}")
        id = ""
        lines = answer.aiter_lines()
        while (line := await asyncio.wait_for(anext(lines, None), idle_seconds)) is not None:
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
