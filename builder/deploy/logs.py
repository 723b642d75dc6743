"""Workers' logs, which the API streams as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from builder.deploy.api import Api
from builder.deploy.caller import Caller, Say, unreachable
from builder.deploy.failures import failure
from builder.errors import ApiUnavailable, NotFound


@dataclass(frozen=True)
class Order:
    """Which lines are wanted.

    Attributes:
        tail: how many that are there already; without `follow` no more than that.
        source: container, system, or both.
        follow: whether to wait for more.
        is_named: whether one worker was named, which then has to be there.
    """

    tail: int
    source: str | None
    follow: bool
    is_named: bool = False

    def query(self) -> dict[str, str]:
        """Return it as the API's parameters."""
        return {"tail": str(self.tail)} | ({"source": self.source} if self.source else {})


def show(api: Api, endpoint: str, workers: Sequence[str], order: Order, say: Say) -> None:
    """Say the lines of an endpoint's workers: one worker after another, or all as they come.

    Raises:
        DeployError: the API refuses, in one sentence.
    """
    urls = {worker: api.logs_url(endpoint, worker) for worker in workers}
    try:
        asyncio.run(_show(api.caller, urls, order, say))
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def _show(caller: Caller, urls: dict[str, str], order: Order, say: Say) -> None:
    quiet = None if order.follow else caller.pace.quiet_seconds
    timeout = httpx.Timeout(caller.pace.request_seconds, read=quiet)
    async with (
        httpx.AsyncClient(headers=caller.client.headers, timeout=timeout) as client,
        asyncio.TaskGroup() as group,
    ):
        for worker, url in urls.items():
            task = group.create_task(_of_worker(client, caller, worker, url, order, say))
            if not order.follow:
                await asyncio.wait([task])


async def _of_worker(
    client: httpx.AsyncClient, caller: Caller, worker: str, url: str, order: Order, say: Say
) -> None:
    """Say one worker's lines; a followed stream that breaks goes on where it broke."""
    last, count = "", 0
    waits_seconds = iter(caller.pace.again_seconds)
    while True:
        try:
            async for id, event in _events(client, worker, url, last, order):
                last, count = id or str(event.get("ts", "")), count + 1
                waits_seconds = iter(caller.pace.again_seconds)
                say(f"{worker}  {event.get('ts', '')}  {event.get('line', '')}".rstrip())
                if count == order.tail and not order.follow:
                    return
            wait_seconds: float | None = caller.pace.again_seconds[0]
        except NotFound:
            if order.is_named and not last:
                raise
            if not last:
                say(f"{worker} has just ended, and its logs with it")
            return
        except httpx.ReadTimeout:
            return  # what was there has been read
        except httpx.RequestError as error:
            wait_seconds = next(waits_seconds, None) if order.follow else None
            if wait_seconds is None:
                raise ApiUnavailable(unreachable(url, error)) from error
        if not order.follow or wait_seconds is None:
            return
        await asyncio.sleep(wait_seconds)


async def _events(
    client: httpx.AsyncClient, worker: str, url: str, last: str, order: Order
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Give each event's id and its data; a line that is none of ours is left out."""
    headers = {"last-event-id": last} if last else {}
    async with client.stream("GET", url, params=order.query(), headers=headers) as answer:
        if answer.status_code != 200:
            await answer.aread()
            raise failure(answer, f"worker {worker}")
        id = ""
        async for line in answer.aiter_lines():
            name, _, value = line.partition(":")
            if name == "id":
                id = value.strip()
            elif name == "data":
                try:
                    data = json.loads(value)
                except ValueError:
                    continue
                if isinstance(data, dict):
                    yield id, data
