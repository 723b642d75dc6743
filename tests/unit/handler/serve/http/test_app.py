"""The HTTP app's routes and keys, called without a server and without an engine."""

import asyncio
from types import SimpleNamespace

import httpx
import pytest
from starlette.responses import Response

from handler.errors import InvalidSetting
from handler.serve.http.admission import AdmissionQueue
from handler.serve.http.app import SYNC_WAIT_SECONDS, HttpApp, Service
from handler.serve.http.auth import ApiKeys


class RecordingInference:
    """Keeps the path of the call that the app would have answered by the engine."""

    path = None

    async def answer(self, request, path, body, send):
        self.path = path
        await Response()(request.scope, request.receive, send)


class RecordingJobs:
    """Keeps how long a caller of /runsync waits."""

    unfinished = 0
    wait_seconds = None

    def parse(self, body, owner):
        return None

    async def submit(self, parsed, keep_seconds):
        await parsed
        return SimpleNamespace(task=None, status=dict, wait_until_finished=self.wait)

    async def wait(self, timeout_seconds):
        self.wait_seconds = timeout_seconds


def ready_app(has_playground=True):
    """Return an app whose engine is up, with the key `k`."""
    app = HttpApp(ApiKeys(["k"]), health_port=None, has_playground=has_playground)
    app.publish(Service(RecordingInference(), RecordingJobs(), AdmissionQueue(1, 1), None))
    app.enter("ready")
    return app


def call(app, method, path, key="k", **more):
    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            headers = {"x-api-key": key} if key else {}
            return await client.request(method, path, headers=headers, **more)

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("has_playground", "method", "status"),
    [(True, "GET", 200), (False, "GET", 401), (False, "POST", 401)],
    ids=["page", "no page", "no page, POST"],
)
def test_only_the_playground_needs_no_key(has_playground, method, status):
    """Without it, / is a path like any other, and its body is not read before the key."""
    assert call(ready_app(has_playground), method, "/", key=None).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/ping", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("HEAD", "/metrics", "GET"),
        ("HEAD", "/status/x", "GET, POST"),
        ("HEAD", "/stream/x", "GET, POST"),
        ("GET", "/runsync", "POST"),
    ],
)
def test_other_methods_are_refused_with_the_allowed_ones(method, path, allowed):
    """A HEAD must not take outputs from a stream."""
    response = call(ready_app(), method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("path", "engine_path"),
    [
        ("/v1/models", "/v1/models"),
        ("/v2/any/openai/v1/models", "/openai/v1/models"),
        ("/v1/v2/x/models", "/v1/v2/x/models"),
        ("/v2/any", "/v2/any"),
    ],
)
def test_the_platforms_prefix_is_removed_only_at_the_front(path, engine_path):
    app = ready_app()
    call(app, "GET", path)
    assert app.service.inference.path == engine_path


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("", SYNC_WAIT_SECONDS),
        ("?wait=1500", 1.5),
        ("?wait=0", 0.0),
        ("?wait=", SYNC_WAIT_SECONDS),
        ("?wait=-1", SYNC_WAIT_SECONDS),
        ("?wait=%C2%B2", SYNC_WAIT_SECONDS),
        ("?wait=1234567", SYNC_WAIT_SECONDS),
    ],
)
def test_how_long_runsync_waits(query, seconds):
    """Milliseconds; anything else is ignored."""
    app = ready_app()
    assert call(app, "POST", f"/runsync{query}", json={}).status_code == 200
    assert app.service.jobs.wait_seconds == seconds


# ---- HEALTH_CHECK_PATH


@pytest.mark.parametrize(
    ("state", "status"), [("starting", 204), ("ready", 200), ("draining", 503), ("dead", 503)]
)
def test_the_health_path_is_answered_like_ping_without_a_key(state, status):
    app = HttpApp(ApiKeys(["k"]), None, has_playground=True, health_path="/health/live")
    app.enter(state)
    for path in ("/ping", "/health/live", "/v2/endpoint/health/live"):
        assert call(app, "GET", path, key=None).status_code == status
    assert call(app, "POST", "/health/live", key=None).status_code == 405
    assert call(app, "GET", "/health/other", key=None).status_code == 401


def test_the_health_port_answers_the_health_path():
    app = HttpApp(ApiKeys(["k"]), 8080, has_playground=True, health_path="/healthz")

    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://worker:8080") as client:
            paths = ("/ping", "/healthz", "/")
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(send()) == [204, 204, 404]


@pytest.mark.parametrize(
    "path",
    ["/health", "/metrics", "/run", "/status/x", "/v1/models", "/openai/v1/health", "/v2/a/ping"],
)
def test_the_health_path_must_not_be_another_route(path):
    with pytest.raises(InvalidSetting) as caught:
        HttpApp(ApiKeys([]), None, has_playground=True, health_path=path)
    assert str(caught.value) == (
        f"HEALTH_CHECK_PATH={path!r} is another route of the worker: leave it out, which is /ping, "
        "or give a path of its own such as /healthz."
    )
