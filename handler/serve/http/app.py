"""The ASGI app of the HTTP front end: routes, access checks and error responses."""

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from handler.engine.runtime import ENGINE_DIED, STOPPING
from handler.errors import (
    ClientDisconnected,
    EngineUnavailable,
    InvalidSetting,
    MethodNotAllowed,
    RequestError,
    UnknownRoute,
    WorkerNotStarted,
    render,
)
from handler.request.routes import find_route, is_anthropic
from handler.serve.http.admission import AdmissionQueue
from handler.serve.http.auth import ApiKeys
from handler.serve.http.body import BodyMemory, RequestBody
from handler.serve.http.inference import Inference
from handler.serve.http.jobs import (
    KEEP_SECONDS,
    KEEP_SYNC_SECONDS,
    STREAM_WAIT_SECONDS,
    SYNC_WAIT_SECONDS,
    HttpJob,
    HttpJobs,
)

State = Literal["starting", "ready", "draining", "dead", "failed"]
PING_STATUS = {"starting": 204, "ready": 200, "draining": 503, "dead": 503, "failed": 503}
NOT_READY = {"starting": "The engine is starting.", "draining": STOPPING, "dead": ENGINE_DIED}
# Runpod's path prefix of an endpoint; clients then only change the host.
ENDPOINT_PREFIX = re.compile(r"^/v2/[^/]+(?=/)")
WAIT_MILLISECONDS = re.compile(r"[0-9]{1,6}")  # of `/runsync?wait=`
HEALTH_PATH = "/ping"
PLAYGROUND = Path(__file__).with_name("playground.html")
PLAYGROUND_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class OrjsonResponse(JSONResponse):
    """JSON that may contain `orjson.Fragment`, which is encoded JSON."""

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


@dataclass(frozen=True)
class Service:
    """The parts of the app that need the engine.

    Attributes:
        exposition: returns the metrics.
    """

    inference: Inference
    jobs: HttpJobs
    admission: AdmissionQueue
    exposition: Callable[[], Awaitable[str]]


class HttpApp:
    """The ASGI app.

    Args:
        keys: the valid API keys.
        health_port: the port that answers `/ping` only; None without such a port.
        has_playground: whether `/` is a chat page.
        health_path: another path that is answered like `/ping`.
        failure: of the start, which answers everything but the health paths.

    Raises:
        InvalidSetting: the health path is one of the other routes.

    Attributes:
        state: the worker's state.
        last_request_at: monotonic time at which the last request of a caller ended: one with a key
            where there are keys, and neither for health nor for the chat page.
        service: None until the engine is up.
    """

    def __init__(
        self,
        keys: ApiKeys,
        health_port: int | None,
        has_playground: bool,
        health_path: str = HEALTH_PATH,
        failure: WorkerNotStarted | None = None,
    ) -> None:
        self._keys = keys
        self._health_port = health_port
        self._failure = failure
        self.state: State = "failed" if failure else "starting"
        self.last_request_at = time.monotonic()
        self.service: Service | None = None
        self._open_requests = 0
        self._memory = BodyMemory()
        routes = [
            Route("/ping", self._ping),
            Route("/health", self._health),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/run", self._submit, methods=["POST"]),
            Route("/runsync", self._submit, methods=["POST"]),
            Route("/status/{name:path}", self._status, methods=["GET", "POST"]),
            Route("/stream/{name:path}", self._stream, methods=["GET", "POST"]),
            Route("/cancel/{name:path}", self._cancel, methods=["POST"]),
        ]
        for route in routes:
            if route.path not in ("/ping", "/health"):
                (route.methods or set()).discard("HEAD")  # Starlette adds it to every GET
        self._health_paths = {HEALTH_PATH, health_path}
        self._open_paths = {*self._health_paths}  # no key needed
        if has_playground:
            self._page = HTMLResponse(PLAYGROUND.read_text("utf-8"), headers=PLAYGROUND_HEADERS)
            self._open_paths.add("/")
            routes.append(Route("/", self._playground))
        if health_path != HEALTH_PATH:
            _check_health_path(health_path, routes)
            routes.insert(0, Route(health_path, self._ping))
        self._router = Router(routes, redirect_slashes=False, default=self._inference)

    def publish(self, service: Service) -> None:
        """Take what is served once the engine is up."""
        self.service = service

    def enter(self, state: State) -> None:
        """Answer as a worker in this state does from now on; may be called from any thread."""
        self.state = state

    @property
    def unfinished(self) -> int:
        """The number of unfinished requests and jobs; thread-safe."""
        if self.service is None:
            return self._open_requests
        admission = self.service.admission
        admitted = admission.running + admission.waiting
        return max(self._open_requests, admitted, self.service.jobs.unfinished)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error becomes an OpenAI or Anthropic error object."""
        if scope["type"] != "http":
            return
        started = False

        async def send_tracked(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        path = ENDPOINT_PREFIX.sub("", scope["path"], count=1)
        body = RequestBody(Request(scope, receive), self._memory)
        scope = {**scope, "app": self, "path": path, "body": body}
        is_callers = False
        self._open_requests += 1
        try:
            scope["owner"] = self._owner(Request(scope))
            is_callers = path not in self._open_paths
            if self._failure is not None and path not in self._health_paths:
                raise self._failure
            await self._router(scope, receive, send_tracked)
        except ClientDisconnected:
            if started:
                raise  # the server closes the connection
        except Exception as error:
            if started:
                raise
            error = _with_methods(error, scope)
            await error_response(error, path, body)(scope, receive, send)
        finally:
            body.close()
            self._open_requests -= 1
            if is_callers:
                self.last_request_at = time.monotonic()

    def _owner(self, request: Request) -> int | None:
        """Check whether a request may be answered, and return the number of its key."""
        path, server = request.scope["path"], request.scope.get("server") or ("", None)
        is_health_port = server[1] is not None and server[1] == self._health_port
        if is_health_port and path not in self._health_paths:
            raise UnknownRoute(f"There is no route {path!r} on this port.")
        return None if path in self._open_paths else self._keys.check(request.headers)

    # ---- endpoints ----

    async def _ping(self, _: Request) -> Response:
        return Response(status_code=PING_STATUS[self.state])

    async def _playground(self, _: Request) -> Response:
        return self._page

    async def _health(self, _: Request) -> Response:
        """Answer like Runpod's `/health` for an endpoint with one worker."""
        jobs = self.service.jobs.counts() if self.service else {}
        workers = dict.fromkeys(("idle", "initializing", "ready", "running", "throttled"), 0)
        busy = bool(jobs.get("inProgress"))
        kind = {"starting": "initializing", "ready": "running" if busy else "idle"}
        workers[kind.get(self.state, "throttled")] = 1
        workers["ready"] = int(self.state == "ready")
        status = 200 if self.state == "ready" else 503
        return OrjsonResponse({"jobs": jobs, "workers": workers}, status)

    async def _metrics(self, _: Request) -> Response:
        exposition = await self._started().exposition()
        return PlainTextResponse(exposition, headers={"content-type": METRICS_TYPE})

    async def _submit(self, request: Request) -> Response:
        jobs, is_sync = self._ready().jobs, request.scope["path"] == "/runsync"
        body: RequestBody = request.scope["body"]
        content = await body.read()
        job = await jobs.submit(
            body.off_loop(len(content), jobs.parse, content, owner=request.scope["owner"]),
            KEEP_SYNC_SECONDS if is_sync else KEEP_SECONDS,
        )
        del content
        if job.task is not None:
            body.keep_until(job.task)
        if is_sync:
            wait = WAIT_MILLISECONDS.fullmatch(request.query_params.get("wait", ""))
            await job.wait_until_finished(int(wait[0]) / 1000 if wait else SYNC_WAIT_SECONDS)
        return OrjsonResponse(job.status())

    def _job(self, request: Request) -> HttpJob:
        return self._started().jobs.get(request.path_params["name"], owner=request.scope["owner"])

    async def _status(self, request: Request) -> Response:
        return OrjsonResponse(self._job(request).status())

    async def _stream(self, request: Request) -> Response:
        job = self._job(request)
        outputs = await job.new_outputs(STREAM_WAIT_SECONDS)
        return OrjsonResponse({"status": job.state, "stream": outputs})

    async def _cancel(self, request: Request) -> Response:
        job = self._job(request)
        await self._started().jobs.cancel(job)
        return OrjsonResponse({"id": job.id, "status": job.state})

    async def _inference(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer every other path; the parser rejects unknown routes."""
        inference = self._ready().inference
        await inference.answer(Request(scope, receive), scope["path"], scope["body"], send)

    def _started(self) -> Service:
        if self.service is None or self.state == "starting":
            raise EngineUnavailable(NOT_READY["starting"])
        return self.service

    def _ready(self) -> Service:
        service = self._started()
        if self.state != "ready":
            raise EngineUnavailable(NOT_READY[self.state])
        return service


def _check_health_path(path: str, routes: list[Route]) -> None:
    """Raise InvalidSetting if a path is one of the worker's routes or the engine's."""
    is_own = any(each.path_regex.match(path) for each in routes)
    with suppress(UnknownRoute):
        find_route(path, in_job=False)
        is_own = True
    if is_own or ENDPOINT_PREFIX.match(path):
        raise InvalidSetting(
            f"HEALTH_CHECK_PATH={path!r} is another route of the worker: leave it out, which is "
            "/ping, or give a path of its own such as /healthz."
        )


def error_response(error: Exception, path: str, body: RequestBody) -> Response:
    """Return an exception as an OpenAI error object, or as Anthropic's on its routes."""
    known = error if isinstance(error, RequestError) else RequestError("")
    headers = {**known.headers, "content-type": "application/json"}
    if body.is_unread:  # the rest of the body must not be parsed as the next request
        headers["connection"] = "close"
    return Response(render(error, is_anthropic(path)), known.status, headers)


def _with_methods(error: Exception, scope: Scope) -> Exception:
    """Convert Starlette's 405 error to MethodNotAllowed."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = [each.strip() for each in (error.headers or {}).get("Allow", "").split(",")]
        methods = [each for each in ("GET", "HEAD", "POST") if each in allowed]
        return MethodNotAllowed(scope["path"], scope["method"], *methods)
    return error
