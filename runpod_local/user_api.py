"""The user's routes: `/run`, `/runsync`, `/status` and the others of api.runpod.ai.

From docs.runpod.io, "Operation reference" and "Send API requests", 2026. Choices where the real
platform is not known: 413 for a body that is too large, a MB is 1,000,000 bytes, a purged job is
CANCELLED, `/cancel` leaves a finished job as it is, 400 for a `/retry` that is not possible, the
texts of errors. An `executionTimeout` below the documented minimum of 5 s is accepted.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from runpod_local.endpoint_state import ApiError, EndpointState
from runpod_local.jobs import Job

MAX_RUN_BODY_BYTES = 10_000_000
MAX_RUNSYNC_BODY_BYTES = 20_000_000
MIN_WAIT_MS, MAX_WAIT_MS = 1_000, 300_000


class UserApi:
    """The routes that a user calls, except the OpenAI ones."""

    def __init__(self, state: EndpointState) -> None:
        self._state = state

    def routes(self) -> list[web.RouteDef]:
        """Return the routes below the endpoint's root."""

        def route(method: str, path: str, handler: Handler) -> web.RouteDef:
            name = path.split("/")[1]
            return web.route(method, path, require_user_key(self._state, name, handler))

        return [
            route("POST", "/run", self.run),
            route("POST", "/runsync", self.runsync),
            route("GET", "/status/{job}", self.status),
            route("POST", "/status/{job}", self.status),
            route("GET", "/stream/{job}", self.stream),
            route("POST", "/cancel/{job}", self.cancel),
            route("POST", "/retry/{job}", self.retry),
            route("POST", "/purge-queue", self.purge_queue),
            route("GET", "/health", self.health),
        ]

    async def run(self, request: web.Request) -> web.Response:
        job = await self._submit(request, MAX_RUN_BODY_BYTES, sync=False)
        return web.json_response(job.status())

    async def runsync(self, request: web.Request) -> web.Response:
        """Queue a job and wait for it; an unfinished one is answered with its status."""
        wait_seconds = self._state.settings.runsync_wait_seconds
        if (wait := request.query.get("wait")) is not None:
            if not wait.isdecimal():
                raise ApiError(400, f"wait must be a number of milliseconds, got {wait!r}")
            wait_seconds = min(max(int(wait), MIN_WAIT_MS), MAX_WAIT_MS) / 1000
        job = await self._submit(request, MAX_RUNSYNC_BODY_BYTES, sync=True)
        await job.changed.wait_for(lambda: job.finished, wait_seconds)
        return web.json_response(job.status())

    async def status(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(request).status())

    async def stream(self, request: web.Request) -> web.Response:
        """Return the chunks since the last call; waits a moment for one if there is none."""
        job = self._job(request)
        await job.changed.wait_for(
            lambda: job.finished or len(job.chunks) > job.chunks_sent_to_user,
            self._state.settings.stream_wait_seconds,
        )
        new = [{"output": chunk.output} for chunk in job.chunks[job.chunks_sent_to_user :]]
        job.chunks_sent_to_user += len(new)
        return web.json_response({"status": job.state.value, "stream": new})

    async def cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        self._state.cancel(job)
        return web.json_response({"id": job.id, "status": job.state.value})

    async def retry(self, request: web.Request) -> web.Response:
        job = self._job(request)
        self._state.retry(job)
        return web.json_response({"id": job.id, "status": job.state.value})

    async def purge_queue(self, request: web.Request) -> web.Response:
        return web.json_response({"removed": self._state.purge_queue(), "status": "completed"})

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response(self._state.health())

    def _job(self, request: web.Request) -> Job:
        return self._state.job(request.match_info["job"])

    async def _submit(self, request: web.Request, max_body_bytes: int, *, sync: bool) -> Job:
        raw = await request.read()
        if len(raw) > max_body_bytes:
            raise ApiError(413, f"the body must have at most {max_body_bytes} bytes")
        try:
            body = json.loads(raw)
        except ValueError:
            raise ApiError(400, "the body must be JSON") from None
        if not isinstance(body, dict) or "input" not in body:
            raise ApiError(400, 'the body must be a JSON object with an "input"')
        timeout_seconds = parse_execution_timeout(body)
        return self._state.submit(body["input"], timeout_seconds=timeout_seconds, sync=sync)


def parse_execution_timeout(body: dict[str, Any]) -> float | None:
    """Return `policy.executionTimeout` in seconds; raises ApiError if it is invalid."""
    policy = body.get("policy") or {}
    if not isinstance(policy, dict):
        raise ApiError(400, "policy must be a JSON object")
    timeout_ms = policy.get("executionTimeout")
    if timeout_ms is None:
        return None
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int | float) or timeout_ms <= 0:
        message = f"must be a positive number of milliseconds, got {timeout_ms!r}"
        raise ApiError(400, f"policy.executionTimeout {message}")
    return timeout_ms / 1000


def require_user_key(state: EndpointState, name: str, handler: Handler) -> Handler:
    """Count the requests to a handler, and let only those with the user's key through.

    The documentation shows the key with and without "Bearer". Anthropic's client sends it as
    `x-api-key`; whether the real platform takes that is not known.
    """

    async def checked(request: web.Request) -> web.StreamResponse:
        state.requests[name] += 1
        sent = request.headers.get("Authorization") or request.headers.get("x-api-key") or ""
        key = sent.removeprefix("Bearer ")
        if not hmac.compare_digest(key.encode(), state.settings.api_key.encode()):
            raise ApiError(
                401,
                f"The API key is missing or wrong; this endpoint's is {state.settings.api_key}.",
            )
        return await handler(request)

    return checked
