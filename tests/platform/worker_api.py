"""The worker's side: the URLs that the runpod SDK is given in its environment.

Written against the SDK's source, 1.12.0 (`runpod/serverless/modules/`): `rp_job.py`
takes and stops, `rp_http.py` posts, `rp_ping.py` and `rp_fitness.py` ping.

A POST is recorded on arrival and answered after `post_delay_seconds`. Not known of the
real platform: how long a poll is held, whether a stop signal is repeated (here it is
given once), how it answers a POST for a job it does not know (404 here), whether the
1 MB of a chunk are 1,000,000 bytes or 1,048,576 (here the former, counted on the whole
body), and whether job-done has a limit (none here).
"""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from tests.platform.answers import Handler, error, parsed
from tests.platform.faults import DROP, Kind
from tests.platform.job import Job
from tests.platform.seen import Ping
from tests.platform.store import Store

CHUNK_LIMIT_BYTES = 1_000_000


class WorkerApi:
    """The routes that a worker calls."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._warned = False

    def routes(self) -> list[web.RouteDef]:
        """List the routes below the endpoint's root."""
        return [
            web.get("/job-take/{worker}", self._guard("job-take", "take", self.take)),
            web.get(
                "/job-take-batch/{worker}", self._guard("job-take-batch", "take", self.take_batch)
            ),
            web.get("/job-stop/{worker}", self._guard("job-stop", "stop", self.stop)),
            web.post("/job-stream/{worker}/{job}", self._guard("job-stream", "stream", self.chunk)),
            web.post("/job-done/{worker}/{job}", self._guard("job-done", "done", self.done)),
            web.get("/ping/{worker}", self._guard("ping", "ping", self.ping)),
        ]

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Long poll for one job."""
        jobs = await self._store.take(request.match_info["worker"], 1)
        return web.json_response(offered(jobs[0])) if jobs else web.Response(status=204)

    async def take_batch(self, request: web.Request) -> web.StreamResponse:
        """Long poll for up to `batch_size` jobs; the answer comes when there is one."""
        size = request.query.get("batch_size", "")
        if not size.isdecimal() or int(size) < 1:
            return error(400, f"batch_size is {size!r}, a positive integer is needed")
        jobs = await self._store.take(request.match_info["worker"], int(size))
        if not jobs:
            return web.Response(status=204)
        return web.json_response([offered(job) for job in jobs])

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """Long poll for jobs to stop."""
        job_ids = await self._store.jobs_to_stop(request.match_info["worker"])
        return web.json_response({"jobsToStop": job_ids}) if job_ids else web.Response(status=204)

    async def chunk(self, request: web.Request) -> web.StreamResponse:
        """Take one yield."""
        body = await request.read()
        job = self._store.jobs.get(request.match_info["job"])
        if job is None:
            return error(404, "job not found")
        if len(body) > CHUNK_LIMIT_BYTES:
            job.refused_bytes.append(len(body))
            return error(400, f"the chunk is over {CHUNK_LIMIT_BYTES} bytes")
        try:
            output = parsed(body)["output"]
        except (ValueError, TypeError, KeyError):
            return error(400, 'the body is not {"output": …}')
        self._store.add_chunk(job, output, len(body))
        return await self._accepted()

    async def done(self, request: web.Request) -> web.StreamResponse:
        """Take a job's result."""
        body = await request.read()
        job = self._store.jobs.get(request.match_info["job"])
        if job is None:
            return error(404, "job not found")
        try:
            result = parsed(body)
        except ValueError:
            return error(400, "the body is not JSON")
        if not isinstance(result, dict):
            return error(400, "the body is not an object")
        self._store.finish(job, result, len(body))
        return await self._accepted()

    async def ping(self, request: web.Request) -> web.StreamResponse:
        """Note a heartbeat, or the report of a failed fitness check."""
        query = request.query
        job_ids = tuple(filter(None, query.get("job_id", "").split(",")))
        ping = Ping(
            time.monotonic(),
            job_ids,
            query.get("runpod_version"),
            query.get("status"),
            query.get("check"),
            query.get("reason"),
        )
        self._store.add_ping(request.match_info["worker"], ping)
        return web.Response()

    async def _accepted(self) -> web.Response:
        if self._store.settings.post_delay_seconds > 0:
            await asyncio.sleep(self._store.settings.post_delay_seconds)
        return web.Response()

    def _guard(self, name: str, kind: Kind, handler: Handler) -> Handler:
        """Count the request, check the worker's key, and let a planned fault happen."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self._store.requests[name] += 1
            if request.headers.get("Authorization") != self._store.settings.worker_key:
                return self._unauthorized(request)
            fault = self._store.faults.next(kind)
            if fault == DROP:
                return await dropped(request)
            if fault is not None:
                await request.read()
                return error(fault, "a planned fault")
            return await handler(request)

        return guarded

    def _unauthorized(self, request: web.Request) -> web.Response:
        if not self._warned:
            self._warned = True
            print(
                f"platform: worker {request.match_info['worker']} sent a wrong key. The SDK sends "
                "the one of ~/.runpod/config.toml, if there is that file, not RUNPOD_AI_API_KEY.",
                flush=True,
            )
        return error(401, "the key is not the worker's key")


def offered(job: Job) -> dict[str, object]:
    """Write a job as the worker gets it. The real platform may add fields: not known."""
    return {"id": job.id, "input": job.input}


async def dropped(request: web.Request) -> web.Response:
    """Read the request, then close its connection without a word."""
    await request.read()
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
