"""The user's side: `/run`, `/runsync`, `/status` and the others of api.runpod.ai.

From the documentation (docs.runpod.io, "Operation reference" and "Send API requests",
2026). Not known of the real platform: the status for a body that is too large (413
here), how a MB is counted (1,000,000 bytes here), the state of a purged job (CANCELLED
here), how `/cancel` of a finished job answers (its status, unchanged, here), how long
`/stream` waits for news, and what is said to a `/retry` that is not possible (400 here).
An `executionTimeout` under the documented minimum of 5 s is accepted here.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tests.platform.answers import Handler, error, parsed
from tests.platform.health import health
from tests.platform.job import Job
from tests.platform.store import Store

RUN_LIMIT_BYTES = 10_000_000
RUNSYNC_LIMIT_BYTES = 20_000_000
SHORTEST_WAIT_MS, LONGEST_WAIT_MS = 1_000, 300_000


class UserApi:
    """The routes that a user calls, except the OpenAI ones."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        """List the routes below the endpoint's root."""
        status = with_key(self._store, "status", self._with_job(self.status))
        return [
            web.post("/run", with_key(self._store, "run", self.run)),
            web.post("/runsync", with_key(self._store, "runsync", self.runsync)),
            web.get("/status/{job}", status),
            web.post("/status/{job}", status),
            web.get("/stream/{job}", with_key(self._store, "stream", self._with_job(self.stream))),
            web.post("/cancel/{job}", with_key(self._store, "cancel", self._with_job(self.cancel))),
            web.post("/retry/{job}", with_key(self._store, "retry", self._with_job(self.retry))),
            web.post("/purge-queue", with_key(self._store, "purge-queue", self.purge_queue)),
            web.get("/health", with_key(self._store, "health", self.health)),
        ]

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Queue a job."""
        job = await self._submitted(request, RUN_LIMIT_BYTES, sync=False)
        return web.json_response(job.status()) if isinstance(job, Job) else job

    async def runsync(self, request: web.Request) -> web.StreamResponse:
        """Queue a job and wait for it; an unfinished one is answered with its status."""
        wait_seconds = self._store.settings.runsync_wait_seconds
        if "wait" in request.query:
            if not request.query["wait"].isdecimal():
                return error(400, "wait is not a number of milliseconds")
            wait_ms = min(max(int(request.query["wait"]), SHORTEST_WAIT_MS), LONGEST_WAIT_MS)
            wait_seconds = wait_ms / 1000
        job = await self._submitted(request, RUNSYNC_LIMIT_BYTES, sync=True)
        if not isinstance(job, Job):
            return job
        await job.news.wait_for(lambda: job.finished, wait_seconds)
        return web.json_response(job.status())

    async def status(self, job: Job) -> web.StreamResponse:
        """Answer with the state, the times and what is there of the result."""
        return web.json_response(job.status())

    async def stream(self, job: Job) -> web.StreamResponse:
        """Answer with the chunks that came since the last call; waits a little for news."""
        await job.news.wait_for(
            lambda: job.finished or len(job.chunks) > job.streamed_to_user,
            self._store.settings.stream_wait_seconds,
        )
        new = [{"output": chunk.output} for chunk in job.chunks[job.streamed_to_user :]]
        job.streamed_to_user += len(new)
        return web.json_response({"status": job.state.value, "stream": new})

    async def cancel(self, job: Job) -> web.StreamResponse:
        """Cancel a job in the queue or in progress."""
        self._store.cancel(job)
        return web.json_response({"id": job.id, "status": job.state.value})

    async def retry(self, job: Job) -> web.StreamResponse:
        """Queue a failed job again."""
        if not self._store.retry(job):
            return error(400, f"a job that is {job.state.value} cannot be retried")
        return web.json_response({"id": job.id, "status": job.state.value})

    async def purge_queue(self, request: web.Request) -> web.StreamResponse:
        """Empty the queue."""
        return web.json_response({"removed": self._store.purge(), "status": "completed"})

    async def health(self, request: web.Request) -> web.StreamResponse:
        """Count jobs and workers."""
        return web.json_response(health(self._store))

    async def _submitted(
        self, request: web.Request, limit_bytes: int, *, sync: bool
    ) -> Job | web.Response:
        body = await request.read()
        if len(body) > limit_bytes:
            return error(413, f"the body is over {limit_bytes} bytes")
        try:
            order = parsed(body)
        except ValueError:
            return error(400, "the body is not JSON")
        if not isinstance(order, dict) or "input" not in order:
            return error(400, 'the body is not an object with an "input"')
        try:
            timeout_seconds = execution_timeout(order)
        except ValueError as problem:
            return error(400, str(problem))
        return self._store.submit(order["input"], timeout_seconds=timeout_seconds, sync=sync)

    def _with_job(self, handler: Callable[[Job], Awaitable[web.StreamResponse]]) -> Handler:
        async def found(request: web.Request) -> web.StreamResponse:
            job = self._store.jobs.get(request.match_info["job"])
            return error(404, "job not found") if job is None else await handler(job)

        return found


def execution_timeout(order: dict[str, Any]) -> float | None:
    """Read `policy.executionTimeout`, in seconds; ValueError if it is no positive number."""
    policy = order.get("policy") or {}
    if not isinstance(policy, dict):
        raise ValueError("policy is not an object")
    timeout_ms = policy.get("executionTimeout")
    if timeout_ms is None:
        return None
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int | float) or timeout_ms <= 0:
        raise ValueError(f"policy.executionTimeout is {timeout_ms!r}, milliseconds are needed")
    return float(timeout_ms) / 1000


def with_key(store: Store, name: str, handler: Handler) -> Handler:
    """Count the request and let it through only with the user's key.

    The documentation shows the key with and without "Bearer". Anthropic's client sends it
    as `x-api-key`; whether the real platform takes that is not known.
    """

    async def checked(request: web.Request) -> web.StreamResponse:
        store.requests[name] += 1
        sent = request.headers.get("Authorization") or request.headers.get("x-api-key") or ""
        key = sent.removeprefix("Bearer ")
        if not hmac.compare_digest(key.encode(), store.settings.api_key.encode()):
            return error(401, "the key is not the user's key")
        return await handler(request)

    return checked
