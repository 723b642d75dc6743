"""The OpenAI side: `/openai/v1/*` becomes a job, and the job's yields become the answer.

Known, from workers that use it: the job input is `{"openai_route", "openai_input"}`, a
stream's yields are raw SSE text, any other answer is one dict.

Not known of the real platform, and chosen here:
- A body that is not JSON: 400 with an OpenAI-style error. No body: `openai_input` is {}.
  A body that is JSON but no object is passed on. The query string is dropped.
- A FAILED job, before anything was streamed: the HTTP status is the `code` in the error
  object that the worker sent as a JSON string, if that is a number from 400 to 599, else
  500. TIMED_OUT is 504, CANCELLED 499.
- A FAILED job after streaming began: the stream ends after what was delivered.
- A stream's head is sent with the first chunk, not before.
- A yield of a stream that is not a string is sent as `data: <JSON>`.
- An answer of several yields, or of none (a worker without `return_aggregate_stream`),
  is the JSON list of them.
- A user who goes away cancels the job.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from aiohttp import web

from tests.platform.answers import parsed
from tests.platform.job import Job, State
from tests.platform.store import Store
from tests.platform.user_api import with_key

STATUS_OF_STATE = {State.FAILED: 500, State.TIMED_OUT: 504, State.CANCELLED: 499}


class OpenaiApi:
    """The route that OpenAI's and Anthropic's clients call."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        """List the routes below the endpoint's root."""
        handler = with_key(self._store, "openai", self.forward)
        return [web.route("*", "/openai/v1/{path:.*}", handler)]

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Run the request as a job, for as long as its user is there."""
        body = await request.read()
        try:
            openai_input = parsed(body) if body else {}
        except ValueError as problem:
            return openai_error(400, f"the body is not JSON: {problem}")
        route = "/v1/" + request.match_info["path"]
        job = self._store.submit({"openai_route": route, "openai_input": openai_input})
        try:
            if isinstance(openai_input, dict) and openai_input.get("stream") is True:
                return await self._streamed(request, job)
            await job.news.wait_for(lambda: job.finished, None)
            return plain(job)
        finally:
            self._store.cancel(job)

    async def _streamed(self, request: web.Request, job: Job) -> web.StreamResponse:
        """Write each chunk as it arrives."""
        await job.news.wait_for(lambda: job.finished or job.chunks, None)
        if not job.chunks and job.state is not State.COMPLETED:
            return failed(job)
        response = web.StreamResponse(headers={"Cache-Control": "no-cache", "X-Job-Id": job.id})
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        await response.prepare(request)
        async for output in arriving(job):
            await response.write(event(output))
        await response.write_eof()
        return response


async def arriving(job: Job) -> AsyncIterator[Any]:
    """Give what the worker yields, as it arrives, until the job is finished."""
    given = 0
    while True:
        await job.news.wait_for(partial(has_more, job, given), None)
        if given == len(job.chunks):
            return
        yield job.chunks[given].output
        given += 1


def has_more(job: Job, given: int) -> bool:
    """Whether there is another chunk, or will never be."""
    return job.finished or len(job.chunks) > given


def event(output: Any) -> bytes:
    """Write a yield as a piece of an SSE stream: text is one already."""
    text = output if isinstance(output, str) else f"data: {json.dumps(output)}\n\n"
    return text.encode()


def plain(job: Job) -> web.Response:
    """Answer with the result of a finished job."""
    if job.state is not State.COMPLETED:
        return failed(job)
    output = job.output
    if isinstance(output, list) and len(output) == 1:
        output = output[0]
    headers = {"X-Job-Id": job.id}
    if isinstance(output, str):
        return web.Response(text=output, headers=headers)
    return web.json_response(output, headers=headers)


def failed(job: Job) -> web.Response:
    """Answer for a job that did not complete: with the worker's error object, if it is one."""
    status = STATUS_OF_STATE[job.state]
    message = f"the job is {job.state.value}" if job.error is None else str(job.error)
    try:
        body = json.loads(message)
        code = body["error"].get("code")
    except (ValueError, TypeError, KeyError, AttributeError):
        return openai_error(status, message)
    if type(code) is int and 400 <= code <= 599:
        status = code
    return web.json_response(body, status=status, headers={"X-Job-Id": job.id})


def openai_error(status: int, message: str) -> web.Response:
    """Answer with an error object as OpenAI's API writes it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status)
