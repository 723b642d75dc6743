"""A worker's logs, which the API streams as server-sent events."""

import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import httpx

from builder.deploy.api import Api
from builder.deploy.caller import unreachable
from builder.deploy.errors import DeployError, NotFound, Unreachable
from builder.deploy.failures import failure


@dataclass(frozen=True)
class Order:
    """Which lines are wanted.

    Attributes:
        tail: how many that are there already; without `follow` no more than that.
        source: container, system, or both.
        follow: whether to wait for more.
    """

    tail: int
    source: str | None
    follow: bool


def lines(api: Api, endpoint: str, workers: Sequence[str], order: Order) -> Iterator[str]:
    """Give the lines of an endpoint's workers: one after another, or as they come.

    Raises:
        DeployError: the API refuses, in one sentence.
    """
    if not order.follow:
        for worker in workers:
            yield from _of_worker(api, endpoint, worker, order)
        return
    arriving: queue.Queue[str | DeployError | None] = queue.Queue()

    def read(worker: str) -> None:
        try:
            for line in _of_worker(api, endpoint, worker, order):
                arriving.put(line)
        except DeployError as error:
            arriving.put(error)
        arriving.put(None)

    for worker in workers:
        # They end with the process: a stream that is quiet would hold it.
        threading.Thread(target=read, args=(worker,), daemon=True).start()
    running = len(workers)
    while running:
        item = arriving.get()
        if isinstance(item, DeployError):
            raise item
        if item is None:
            running -= 1
        else:
            yield item


def _of_worker(api: Api, endpoint: str, worker: str, order: Order) -> Iterator[str]:
    """Give one worker's lines; a followed stream that breaks goes on where it broke."""
    caller = api.caller
    query = {"tail": str(order.tail)} | ({"source": order.source} if order.source else {})
    url, last = api.logs_url(endpoint, worker), ""
    quiet = None if order.follow else caller.pace.quiet_seconds
    timeout = httpx.Timeout(caller.pace.request_seconds, read=quiet)
    waits_seconds = iter(caller.pace.again_seconds)
    while True:
        headers = {"last-event-id": last} if last else {}
        try:
            with caller.client.stream(
                "GET", url, params=query, headers=headers, timeout=timeout
            ) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise failure(answer, f"worker {worker}")
                events = _events(answer)
                for id, event in events if order.follow else islice(events, order.tail):
                    last = id or str(event.get("ts", ""))
                    waits_seconds = iter(caller.pace.again_seconds)
                    yield f"{worker}  {event.get('ts', '')}  {event.get('line', '')}".rstrip()
        except NotFound:
            if last:
                return  # the worker has ended
            raise
        except httpx.ReadTimeout:
            return  # what was there has been read
        except httpx.RequestError as error:
            wait_seconds = next(waits_seconds, None)
            if wait_seconds is None or not order.follow:
                raise Unreachable(unreachable(url, error)) from error
            time.sleep(wait_seconds)
            continue
        if not order.follow:
            return
        time.sleep(caller.pace.again_seconds[0])


def _events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each event's id and its data; a line that is none of ours is left out."""
    id = ""
    for line in answer.iter_lines():
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
