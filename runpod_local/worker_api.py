"""The worker's routes: the URLs that the runpod SDK is given in its environment.

Written against the source of SDK 1.12.0 (`runpod/serverless/modules/`): `rp_job.py` takes and
stops, `rp_http.py` posts, `rp_ping.py` and `rp_fitness.py` ping.

A POST is recorded on arrival and answered after `post_delay_seconds`. Choices where the real
platform is not known: the length of a poll, a stop signal is sent once, 404 for a POST for an
unknown job and 200 for one that ended, the 1 MB of a chunk is 1,000,000 bytes of the whole body,
job-done has no limit, and a job has no other fields than its id and input.
"""

from __future__ import annotations

import asyncio
import json
import time

from aiohttp import web
from aiohttp.typedefs import Handler

from runpod_local.endpoint_state import ApiError, EndpointState
from runpod_local.faults import Fault, Kind
from runpod_local.jobs import Job
from runpod_local.workers import Ping

MAX_CHUNK_BODY_BYTES = 1_000_000


class WorkerApi:
    """The routes that a worker calls."""

    def __init__(self, state: EndpointState) -> None:
        self._state = state
        self._warned_of_wrong_key = False

    def routes(self) -> list[web.RouteDef]:
        """Return the routes below the endpoint's root."""

        def route(method: str, path: str, kind: Kind, handler: Handler) -> web.RouteDef:
            name = path.split("/")[1]
            return web.route(method, path, self._guard(name, kind, handler))

        return [
            route("GET", "/job-take/{worker}", "take", self.take),
            route("GET", "/job-take-batch/{worker}", "take", self.take_batch),
            route("GET", "/job-stop/{worker}", "stop", self.stop),
            route("POST", "/job-stream/{worker}/{job}", "stream", self.chunk),
            route("POST", "/job-done/{worker}/{job}", "done", self.done),
            route("GET", "/ping/{worker}", "ping", self.ping),
        ]

    async def take(self, request: web.Request) -> web.Response:
        """Long poll for one job."""
        jobs = await self._state.take_jobs(request.match_info["worker"], 1)
        return web.json_response(job_body(jobs[0])) if jobs else web.Response(status=204)

    async def take_batch(self, request: web.Request) -> web.Response:
        """Long poll for up to `batch_size` jobs; answered as soon as there is one."""
        size = request.query.get("batch_size", "")
        if not size.isdecimal() or int(size) < 1:
            raise ApiError(400, f"batch_size must be a positive integer, got {size!r}")
        jobs = await self._state.take_jobs(request.match_info["worker"], int(size))
        if not jobs:
            return web.Response(status=204)
        return web.json_response([job_body(job) for job in jobs])

    async def stop(self, request: web.Request) -> web.Response:
        """Long poll for jobs to stop."""
        job_ids = await self._state.jobs_to_stop(request.match_info["worker"])
        return web.json_response({"jobsToStop": job_ids}) if job_ids else web.Response(status=204)

    async def chunk(self, request: web.Request) -> web.Response:
        """Record one yield."""
        body = await request.read()
        job = self._state.job(request.match_info["job"])
        if len(body) > MAX_CHUNK_BODY_BYTES:
            job.rejected_chunk_bytes.append(len(body))
            raise ApiError(400, f"a chunk must have at most {MAX_CHUNK_BODY_BYTES} bytes")
        try:
            output = json.loads(body)["output"]
        except (ValueError, TypeError, KeyError):
            raise ApiError(400, 'the body must be {"output": …}') from None
        self._state.add_chunk(job, output, len(body))
        return await self._accepted()

    async def done(self, request: web.Request) -> web.Response:
        """Record a job's result or progress."""
        body = await request.read()
        job = self._state.job(request.match_info["job"])
        try:
            result = json.loads(body)
        except ValueError:
            raise ApiError(400, "the body must be JSON") from None
        if not isinstance(result, dict):
            raise ApiError(400, "the body must be a JSON object")
        self._state.finish(job, result, len(body))
        return await self._accepted()

    async def ping(self, request: web.Request) -> web.Response:
        """Record a heartbeat or the report of a failed fitness check."""
        query = request.query
        ping = Ping(
            arrived_at=time.monotonic(),
            job_ids=tuple(filter(None, query.get("job_id", "").split(","))),
            runpod_version=query.get("runpod_version"),
            status=query.get("status"),
            check=query.get("check"),
            reason=query.get("reason"),
        )
        self._state.add_ping(request.match_info["worker"], ping)
        return web.Response()

    async def _accepted(self) -> web.Response:
        if self._state.settings.post_delay_seconds > 0:
            await asyncio.sleep(self._state.settings.post_delay_seconds)
        return web.Response()

    def _guard(self, name: str, kind: Kind, handler: Handler) -> Handler:
        """Count the requests to a handler, require the worker's key, apply planned faults."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self._state.requests[name] += 1
            if request.headers.get("Authorization") != self._state.settings.worker_key:
                self._warn_of_wrong_key(request.match_info["worker"])
                raise ApiError(401, "wrong API key: the worker's key is needed")
            fault = self._state.faults.next(kind)
            if fault is None:
                return await handler(request)
            await asyncio.sleep(fault.delay_seconds)
            if fault.is_answered:
                response = await handler(request)
                if fault.status and not fault.is_cut:
                    return response
            return await answer_with_fault(request, fault)

        return guarded

    def _warn_of_wrong_key(self, worker_id: str) -> None:
        if not self._warned_of_wrong_key:
            self._warned_of_wrong_key = True
            print(
                f"platform: worker {worker_id} sent a wrong key. The SDK sends the one of "
                "~/.runpod/config.toml, if there is that file, not RUNPOD_AI_API_KEY.",
                flush=True,
            )


async def answer_with_fault(request: web.Request, fault: Fault) -> web.StreamResponse:
    """Answer as planned, or reset the connection before or in the middle of the answer."""
    await request.read()
    body = fault.body or b""
    if fault.status and not fault.is_cut:
        if fault.body is None:
            raise ApiError(fault.status, "a planned fault")
        return web.Response(body=body, status=fault.status, content_type=fault.content_type)
    response = web.StreamResponse(headers={"Content-Type": fault.content_type})
    if fault.is_cut:
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.abort()
    return response


def job_body(job: Job) -> dict[str, object]:
    return {"id": job.id, "input": job.input}
