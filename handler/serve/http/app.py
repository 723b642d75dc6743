"""What HTTP serves: which path is answered by whom, and who may ask."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handler.engine.interface import Receive, Scope, Send
from handler.errors import ClientDisconnected, EngineUnavailable, MethodNotAllowed, UnknownRoute
from handler.request.routes import is_anthropics
from handler.serve.http.admission import AdmissionQueue
from handler.serve.http.auth import ApiKeys
from handler.serve.http.inference import Inference
from handler.serve.http.jobs import (
    KEEP_SECONDS,
    KEEP_SYNC_SECONDS,
    STREAM_WAIT_SECONDS,
    SYNC_WAIT_SECONDS,
    Jobs,
)
from handler.serve.http.request import BodyMemory, HttpCall

State = Literal["starting", "ready", "draining", "dead"]
PING = {"starting": 204, "ready": 200, "draining": 503, "dead": 503}
WHY_NOT = {
    "starting": "The engine is starting.",
    "draining": "The worker is being stopped.",
    "dead": "The engine died; the worker is being replaced.",
}
# Runpod's own address of an endpoint, so that only the host has to change.
ENDPOINT = re.compile(r"/v2/[^/]+(?=/)")
PLAYGROUND = Path(__file__).with_name("playground.html")
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Service:
    """What there is once the engine is up.

    Attributes:
        inference: answers the engine's routes.
        jobs: answers `/run` and what belongs to it.
        slots: the places that both take.
        exposition: returns the metrics.
    """

    inference: Inference
    jobs: Jobs
    slots: AdmissionQueue
    exposition: Callable[[], Awaitable[str]]


class App:
    """The ASGI app of the front door.

    Args:
        keys: that are right.
        health_port: a port that answers `/ping` alone; None where it is the same.
        has_playground: whether there is a page at `/`.

    Attributes:
        state: of the worker; from any thread.
        service: once the engine is up.
        open_calls: requests that are being answered.
    """

    def __init__(self, keys: ApiKeys, health_port: int | None, has_playground: bool) -> None:
        self._keys = keys
        self._health_port = health_port
        self._page = PLAYGROUND.read_bytes() if has_playground else None
        self.state: State = "starting"
        self.service: Service | None = None
        self._open_calls = 0
        self._room = BodyMemory()

    @property
    def busy(self) -> int:
        """How many calls and jobs are not over; from any thread."""
        if self.service is None:
            return self._open_calls
        slots = self.service.slots
        waiting = slots.taken + slots.waiting
        return max(self._open_calls, waiting, self.service.jobs.unfinished)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; an error of any kind is an OpenAI error object."""
        if scope["type"] != "http":
            return
        call = HttpCall(scope, receive, send, self._room)
        self._open_calls += 1
        try:
            await self._answer(call)
        except ClientDisconnected:
            if call.started:
                raise  # the server closes the connection
        except Exception as error:
            if call.started:
                raise
            await call.answer_error(error, is_anthropics(_path(call)))
        finally:
            call.close()
            self._open_calls -= 1

    async def _answer(self, call: HttpCall) -> None:
        path = _path(call)
        if path == "/ping":
            _only(call, "GET", "HEAD")
            await call.answer(PING[self.state])
        elif call.port == self._health_port:
            raise UnknownRoute(f"There is no route {call.path!r} on this port.")
        elif path == "/" and self._page is not None:
            _only(call, "GET", "HEAD")
            await call.answer(200, self._page, "text/html; charset=utf-8", PAGE_HEADERS)
        else:
            self._keys.check(call.headers)
            await self._serve(call, path)

    async def _serve(self, call: HttpCall, path: str) -> None:
        service = self.service
        if path == "/health":
            _only(call, "GET", "HEAD")
            await self._health(call)
        elif service is None or self.state == "starting":
            raise EngineUnavailable(WHY_NOT["starting"])
        elif path == "/metrics":
            _only(call, "GET")
            await call.answer(200, (await service.exposition()).encode(), EXPOSITION)
        elif path.startswith(("/status/", "/stream/", "/cancel/")):
            await self._job(call, path, service.jobs)
        elif self.state != "ready":
            raise EngineUnavailable(WHY_NOT[self.state])
        elif path in ("/run", "/runsync"):
            _only(call, "POST")
            await _submit(call, path, service.jobs)
        else:
            await service.inference.answer(call, path)

    async def _health(self, call: HttpCall) -> None:
        """Say what Runpod's `/health` of an endpoint with this one worker would."""
        jobs = self.service.jobs.counts() if self.service else {}
        workers = dict.fromkeys(("idle", "initializing", "ready", "running", "throttled"), 0)
        busy = bool(jobs.get("inProgress"))
        kind = {"starting": "initializing", "ready": "running" if busy else "idle"}
        workers[kind.get(self.state, "throttled")] = 1
        workers["ready"] = int(self.state == "ready")
        status = 200 if self.state == "ready" else 503
        await call.answer_json({"jobs": jobs, "workers": workers}, status)

    async def _job(self, call: HttpCall, path: str, jobs: Jobs) -> None:
        _, what, name = path.split("/", 2)
        job = jobs.get(name)
        if what == "cancel":
            _only(call, "POST")
            await jobs.cancel(job)
            await call.answer_json({"id": job.id, "status": job.state})
        elif what == "stream":
            _only(call, "GET", "POST")
            new = await job.new_outputs(STREAM_WAIT_SECONDS)
            await call.answer_json({"status": job.state, "stream": new})
        else:
            _only(call, "GET", "POST")
            await call.answer_json(job.status())


async def _submit(call: HttpCall, path: str, jobs: Jobs) -> None:
    keep_seconds = KEEP_SECONDS if path == "/run" else KEEP_SYNC_SECONDS
    job = jobs.submit(await call.body(), keep_seconds)
    if job.task is not None:
        call.keep_body_until(job.task)
    if path == "/run":
        await call.answer_json(job.status())
        return
    wait = re.search(r"(?:^|&)wait=(\d{1,6})(?:&|$)", call.query)
    await job.finished(int(wait[1]) / 1000 if wait else SYNC_WAIT_SECONDS)
    await call.answer_json(job.status())


def _path(call: HttpCall) -> str:
    """Return what is asked for, without the prefix that it has on the platform."""
    return ENDPOINT.sub("", call.path, count=1) if call.path.startswith("/v2/") else call.path


def _only(call: HttpCall, *methods: str) -> None:
    if call.method not in methods:
        raise MethodNotAllowed(call.path, call.method, *methods)
