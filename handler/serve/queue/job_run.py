"""The POSTs of a job: one for each output, and at the end one with all of them or with the error.

It replaces the SDK's `handle_job`, which does the same through three more layers, formats each
output for lines of its debug log, and has the ids of all jobs in the headers of one session.
"""

import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp
import orjson

from handler.errors import render
from handler.serve.queue.connections import Headers
from handler.serve.queue.delivery import Delivery, describe, result_headers
from handler.serve.worker import Output

log = logging.getLogger(__name__)

Job = Mapping[str, Any]
Outputs = Callable[[Job], AsyncGenerator[Output]]


class JobRunner:
    """Runs the jobs that the SDK starts; its sessions are used for their headers.

    Args:
        delivery: posts what a job has.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    async def run(
        self, outputs: Outputs, session: aiohttp.ClientSession, _: Mapping[str, Any], job: Job
    ) -> None:
        """Run one job, in a task of its own.

        Args:
            outputs: yields the job's outputs; an error is the last one.
            session: the SDK's.
            job: as the platform has sent it.
        """
        headers, url = result_headers(session, job["id"]), _stream_url(job["id"])
        posted: list[Output] = []
        result: dict[str, Any] = {"output": posted}
        async with aclosing(outputs(job)) as generator:
            async for output in generator:
                if isinstance(output, dict) and (error := output.get("error")):
                    result = {"error": str(error)}
                    break
                posted.append(output)
                await self._post(url, {"output": output}, headers)
        await self._post(_done_url(job["id"], is_stream=True), result, headers)

    async def fail(self, session: aiohttp.ClientSession, job: Job, error: Exception) -> None:
        """Fail a job that has no task."""
        headers = result_headers(session, job["id"])
        result = {"error": render(error)}
        await self._post(_done_url(job["id"], is_stream=True), result, headers)

    async def report_progress(self, job: Job, progress: Mapping[str, int]) -> None:
        """Post a job's progress and wait for the response.

        The SDK's `progress_update` posts from another thread: its last POST could arrive after the
        end of the job.
        """
        from runpod.http_client import AsyncClientSession

        async with AsyncClientSession() as session:
            headers = result_headers(session, job["id"])
        result = {"status": "IN_PROGRESS", "output": progress}
        await self._post(_done_url(job["id"], is_stream=False), result, headers)

    async def _post(self, url: str, data: Mapping[str, Any], headers: Headers) -> None:
        try:
            await self._delivery.post(url, encoded(data), headers)
        except aiohttp.ClientError as error:
            log.error("the platform did not take a result: %s", describe(error))


def encoded(data: Mapping[str, Any]) -> bytes:
    """Return JSON; halves of surrogate pairs stay, and so do integers of more than 64 bits."""
    try:
        return orjson.dumps(data)
    except TypeError:
        return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _stream_url(name: str) -> str:
    from runpod.serverless.modules.rp_http import JOB_STREAM_URL

    return f"{JOB_STREAM_URL.replace('$ID', name)}&isStream=false"


def _done_url(name: str, *, is_stream: bool) -> str:
    from runpod.serverless.modules.rp_http import JOB_DONE_URL

    return f"{JOB_DONE_URL.replace('$ID', name)}&isStream={'true' if is_stream else 'false'}"
