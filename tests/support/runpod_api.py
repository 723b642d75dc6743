"""A part of Runpod's REST API v2, and of an endpoint's own routes, as they are documented.

The live platform cannot be reached from the tests, so this stands in for it: shapes are those of
the API reference and its OpenAPI description (2026); `builder/deploy/api.py` lists what is not
documented and was chosen. Requests are checked as the description says: an unknown field, a
missing one or a value outside its enumeration is 422, and what contradicts itself is 400.
Scaling, money and time are not imitated: a test says what each look at an endpoint shows.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.support.http_server import Server
from tests.support.runpod_endpoint import ApiProblem, EndpointRoutes

KEY = "rpa_right"
CONTAINER = {"image", "args", "disk", "env", "ports", "registry"}
FIELDS = {
    "serverless": CONTAINER
    | {"name", "type", "gpu", "workers", "scaling", "dataCenterIds", "networkVolumes"}
    | {"timeout", "flashboot", "templateId"},
    "templates": CONTAINER
    | {"name", "category", "mounts", "public", "serverless", "startJupyter", "startSsh"},
}
REQUIRED = {"serverless": ("name", "type", "scaling", "gpu", "image"), "templates": ("name",)}
FLASHBOOT = ("OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT")
TITLES = {400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden"}
TITLES |= {404: "Not Found", 422: "Unprocessable Entity", 429: "Too Many Requests"}
COUNTS = ("running", "idle", "initializing", "throttled", "unhealthy")


@dataclass
class Fault:
    """What is to go wrong with the next `times` requests of a method whose path ends in `path`.

    Attributes:
        status: answered, with `detail` and `headers` ...
        after: ... when the request has been carried out all the same.
        cut: the connection ends without an answer.
        late_seconds: the request is carried out, and answered after that time.
        errors: of the request's validation.
        body: answered instead of an error.
    """

    method: str
    path: str
    status: int = 500
    detail: str = "broken on purpose"
    times: int = 1
    after: bool = False
    cut: bool = False
    late_seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    body: Any = None


@dataclass
class RunpodApi:
    """A running API.

    Attributes:
        url: RUNPOD_API_URL.
        states: what one look after the other at an endpoint shows: counts of workers by state.
            The last one stays; an endpoint answers when it has a worker that is idle or running.
        gpus: the catalog's.
        jobs: more counts that /health shows.
        job_error: with which jobs fail.
        root: where endpoints are instead of here, such as a platform in small.
        asked: (method, path, body) of every request.
        keep_open: whether a stream of logs stays open after its lines.
        streams: of logs that were written so far.
    """

    url: str
    endpoints: dict[str, dict] = field(default_factory=dict)
    templates: dict[str, dict] = field(default_factory=dict)
    gpus: list[dict] = field(default_factory=list)
    volumes: set[str] = field(default_factory=lambda: {"vol-1"})
    workers: list[dict] = field(default_factory=list)
    logs: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    states: list[dict[str, int]] = field(default_factory=lambda: [{"idle": 1}])
    jobs: dict[str, int] = field(default_factory=dict)
    job_error: str | None = None
    answer: Callable[[], tuple[int, Any]] | None = None
    root: str | None = None
    key: str = KEY
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    keep_open: bool = False
    streams: int = 0

    def changes(self) -> list[tuple[str, str]]:
        """Return method and path of every request to the API that was to change something."""
        return [
            (method, path)
            for method, path, _ in self.asked
            if method != "GET" and path.startswith("/v2/")
        ]

    def sent(self, method: str, path: str) -> list[Any]:
        """Return the bodies of such requests."""
        return [body for m, p, body in self.asked if (m, p) == (method, path)]

    def look(self) -> dict[str, int]:
        """Return the counts of the next look."""
        now = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {name: now.get(name, 0) for name in COUNTS}


class _Handler(EndpointRoutes, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: RunpodApi

    def do_GET(self):
        self.answer()

    do_POST = do_PATCH = do_DELETE = do_GET

    def answer(self):
        path = urlsplit(self.path).path
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.api.asked.append((self.command, path, body))
        fault = self.next_fault(path)
        if fault and fault.late_seconds:
            time.sleep(fault.late_seconds)
            fault = None
        if fault and not fault.after:
            return self.fail(fault)
        try:
            self.check_key()
            status, made = self.route(path, body)
        except ApiProblem as problem:
            return self.problem(problem.status, problem.detail, problem.errors)
        if fault:
            return self.fail(fault)
        return None if status is None else self.send(status, made)

    def check_key(self):
        if "Mozilla" in self.headers["user-agent"] or "python" in self.headers["user-agent"]:
            raise ApiProblem(403, "browser signature")  # the platform's edge
        bearer = self.headers.get("authorization") or ""
        if not bearer:
            raise ApiProblem(401, "missing bearer token")
        if bearer != f"Bearer {self.api.key}":
            raise ApiProblem(401, "invalid bearer token")

    def route(self, path, body):
        match = re.fullmatch(r"/v2/(serverless|templates)(?:/([^/]+)(/.+)?)?", path)
        if match:
            noun, id, rest = match.groups()
            return self.resource(noun, id, rest, body)
        if path == "/v2/catalog/gpus":
            return 200, {"gpus": self.api.gpus}
        if match := re.fullmatch(r"/v2/network-volumes/(.+)", path):
            if match[1] not in self.api.volumes:
                raise ApiProblem(404, "resource not found")
            return 200, {"id": match[1], "name": "weights", "size": 100, "dataCenter": "US-KS-2"}
        if match := re.fullmatch(r"/(queue|balancer)/([^/]+)(/.+)", path):
            kind, id, rest = match.groups()
            if id not in self.api.endpoints:
                raise ApiProblem(404, "resource not found")
            return self.queue(rest) if kind == "queue" else self.balancer(rest)
        raise ApiProblem(404, "resource not found")

    def resource(self, noun, id, rest, body):
        things = self.api.endpoints if noun == "serverless" else self.api.templates
        if id is None and self.command == "GET":
            return 200, {"endpoints" if noun == "serverless" else noun: list(things.values())}
        if id is None:
            return 201, self.create(noun, things, body)
        if id not in things:
            raise ApiProblem(404, "resource not found")
        if rest == "/workers":
            return 200, self.workers()
        if rest:
            return self.stream_logs(rest.split("/")[2])
        if self.command == "PATCH":
            self.check(noun, body)
            merge(things[id], body)
        if self.command == "DELETE":
            del things[id]
            return 204, None
        return 200, things[id]

    def create(self, noun, things, body):
        missing = [name for name in REQUIRED[noun] if name not in body]
        if missing:
            errors = tuple(f"missing property '{name}'" for name in missing)
            raise ApiProblem(422, "Request validation failed.", errors)
        self.check(noun, body)
        id = f"{'ep' if noun == 'serverless' else 'tpl'}-{len(self.api.asked)}"
        made = {"id": id, "env": {}, "registry": None, "args": "", **body}
        if noun == "serverless":
            made["requestUrls"] = self.urls(id, body["type"])
            made["gpu"] = {"count": 1, "allowedCudaVersions": [], "minCudaVersion": None}
            made["gpu"] |= body["gpu"]
        things[id] = made
        return made

    def urls(self, id, kind):
        if kind == "LOAD_BALANCER":
            base = self.api.root or f"{self.api.url}/balancer/{id}"
            return {"base": base, "health": f"{base}/ping"}
        root = self.api.root or f"{self.api.url}/queue/{id}"
        return {"run": f"{root}/run", "runSync": f"{root}/runsync", "health": f"{root}/health"}

    def check(self, noun, body):
        errors = [
            f"additional property '{name}' not allowed" for name in body.keys() - FIELDS[noun]
        ]
        if body.get("flashboot", "OFF") not in FLASHBOOT:
            errors.append("flashboot is not one of OFF, FLASHBOOT, PRIORITY_FLASHBOOT")
        if self.command == "PATCH" and "type" in body:
            errors.append("additional property 'type' not allowed")
        if not all(isinstance(value, str) for value in body.get("env", {}).values()):
            errors.append("env has a value that is no string")
        if errors:
            raise ApiProblem(422, "Request validation failed.", tuple(errors))
        if body.get("type") == "LOAD_BALANCER" and body["scaling"]["type"] != "REQUEST_COUNT":
            raise ApiProblem(400, "load-balancing endpoints scale on REQUEST_COUNT")

    def workers(self):
        counts = self.api.look()
        summary = counts | {"total": sum(counts.values())}
        return {"workers": self.api.workers, "summary": summary, "endpointVersion": 1}

    def next_fault(self, path):
        for fault in self.api.faults:
            if fault.times and fault.method == self.command and path.endswith(fault.path):
                fault.times -= 1
                return fault
        return None

    def fail(self, fault):
        if fault.cut:
            self.close_connection = True
            self.connection.close()
            return
        if fault.body is not None:
            self.send(fault.status, fault.body)
            return
        self.problem(fault.status, fault.detail, fault.errors, fault.headers)

    def problem(self, status, detail, errors=(), headers=None):
        body = {"title": TITLES.get(status, "Error"), "status": status, "detail": detail}
        body |= {"errors": list(errors)} if errors else {}
        self.send(status, body, headers or {}, "application/problem+json")

    def send(self, status, made, headers=None, content_type="application/json"):
        content = b"" if made is None else json.dumps(made).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def merge(thing: dict, body: dict) -> None:
    """PATCH: only fields that are sent change; objects are merged, `env` and lists replaced."""
    for name, value in body.items():
        if isinstance(value, dict) and name != "env":
            thing[name] = thing.get(name, {}) | value
        else:
            thing[name] = value


@contextmanager
def running_runpod_api(**more: Any) -> Iterator[RunpodApi]:
    """Serve an account without endpoints on a free port."""
    server = Server(_Handler)
    api = RunpodApi(server.url, **more)
    server.RequestHandlerClass = type("Handler", (_Handler,), {"api": api})
    with server.running():
        try:
            yield api
        finally:
            api.keep_open = False
