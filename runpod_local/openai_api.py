"""The OpenAI route: `/openai/v1/*` becomes a job, and the job's yields become the response.

Known from workers that use it: the job input is `{"openai_route", "openai_input"}`, the yields of a
stream are raw SSE text, any other response is one dict. Not known of the real platform, and chosen
here:

- A body that is not JSON: 400 with an OpenAI error object. No body: `openai_input` is {}. A JSON
  body that is not an object is passed on, and a body has no limit. The query string is dropped.
- A FAILED job without a chunk: the HTTP status is the `code` in the error object that the worker
  sent as a JSON string, if that is a number from 400 to 599, else 500. TIMED_OUT is 504, CANCELLED
  499.
- A job that fails after a chunk: the stream ends there.
- The head of a stream is sent with the first chunk.
- A yield of a stream that is not a string is sent as `data: <JSON>`.
- Several yields without `stream`, or none: the response is their JSON list.
- A user who disconnects cancels the job.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from aiohttp import web

from runpod_local.endpoint_state import EndpointState
from runpod_local.jobs import Job, JobState
from runpod_local.user_api import require_user_key

STATUS_OF_JOB_STATE = {JobState.FAILED: 500, JobState.TIMED_OUT: 504, JobState.CANCELLED: 499}


class OpenAIApi:
    """The route that the clients of OpenAI and Anthropic call."""

    def __init__(self, state: EndpointState) -> None:
        self._state = state

    def routes(self) -> list[web.RouteDef]:
        """Return the routes below the endpoint's root."""
        handler = require_user_key(self._state, "openai", self.forward)
        return [web.route("*", "/openai/v1/{path:.*}", handler)]

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Run the request as a job, for as long as its user is connected."""
        body = await request.read()
        try:
            openai_input = json.loads(body) if body else {}
        except ValueError as error:
            return openai_error(400, f"the body must be JSON: {error}")
        route = "/v1/" + request.match_info["path"]
        job = self._state.submit({"openai_route": route, "openai_input": openai_input})
        try:
            if isinstance(openai_input, dict) and openai_input.get("stream") is True:
                return await stream_response(request, job)
            await job.changed.wait_for(lambda: job.finished, None)
            return plain_response(job)
        finally:
            self._state.cancel(job)


async def stream_response(request: web.Request, job: Job) -> web.StreamResponse:
    """Send each chunk as it arrives."""
    sent = 0

    async def wait_for_chunk_or_end() -> None:
        await job.changed.wait_for(lambda: job.finished or len(job.chunks) > sent, None)

    await wait_for_chunk_or_end()
    if not job.chunks and job.state is not JobState.COMPLETED:
        return failed_response(job)
    response = web.StreamResponse(headers={"Cache-Control": "no-cache", "X-Job-Id": job.id})
    response.content_type = "text/event-stream"
    response.charset = "utf-8"
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):  # clients leave after the event [DONE]
        while sent < len(job.chunks):
            output = job.chunks[sent].output
            event = output if isinstance(output, str) else f"data: {json.dumps(output)}\n\n"
            await response.write(event.encode())
            sent += 1
            await wait_for_chunk_or_end()
        await response.write_eof()
    return response


def plain_response(job: Job) -> web.Response:
    """Return the response of a finished job without `stream`."""
    if job.state is not JobState.COMPLETED:
        return failed_response(job)
    output = job.output
    if isinstance(output, list) and len(output) == 1:
        output = output[0]
    headers = {"X-Job-Id": job.id}
    if isinstance(output, str):
        return web.Response(text=output, headers=headers)
    return web.json_response(output, headers=headers)


def failed_response(job: Job) -> web.Response:
    """Return the response of a job that did not complete, with the worker's error object if any."""
    status = STATUS_OF_JOB_STATE[job.state]
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
    error: dict[str, Any] = {
        "message": message,
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": None,
        "code": status,
    }
    return web.json_response({"error": error}, status=status)
