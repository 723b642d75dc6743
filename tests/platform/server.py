"""The server: all routes below `/v2/{endpoint}`, on 127.0.0.1 only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from tests.platform.openai_api import OpenaiApi
from tests.platform.settings import Settings
from tests.platform.store import Store
from tests.platform.user_api import UserApi
from tests.platform.worker_api import WorkerApi

HOST = "127.0.0.1"
CLOSE_WITHIN_SECONDS = 1.0


def application(store: Store) -> web.Application:
    """Put the three sides together. Bodies have no limit but those of the routes."""
    app = web.Application(client_max_size=0)
    root = f"/v2/{store.settings.endpoint_id}"
    for side in (WorkerApi(store), UserApi(store), OpenaiApi(store)):
        app.add_routes(below(root, side.routes()))
    return app


def below(root: str, routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    """Put routes under a root."""
    return [web.route(route.method, root + route.path, route.handler) for route in routes]


@asynccontextmanager
async def serving(store: Store) -> AsyncIterator[str]:
    """Serve in the running event loop; gives the endpoint's URL.

    A handler is cancelled when its client goes away: an abandoned poll must not swallow
    a job, and a user who left has his job cancelled.
    """
    runner = web.AppRunner(
        application(store),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=CLOSE_WITHIN_SECONDS,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, store.settings.port).start()
        port = runner.addresses[0][1]
        yield f"http://{HOST}:{port}/v2/{store.settings.endpoint_id}"
    finally:
        store.close()
        await runner.cleanup()


def worker_environment(base_url: str, settings: Settings, worker_id: str) -> dict[str, str]:
    """Return the environment variables that make the SDK a worker of this endpoint.

    The SDK replaces `$ID` in the first URL by the worker's id, in the two POST URLs
    `$RUNPOD_POD_ID` by the worker's id and then `$ID` by the job's. It appends
    `&job_in_progress=` and `&isStream=`, so the URLs must have a query already. It finds
    the job-stop URL by replacing `/job-take/`. `RUNPOD_ENDPOINT_ID` makes it log JSON.
    """
    query = "?gpu=none"
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base_url}/job-take/$ID{query}",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base_url}/job-stream/$RUNPOD_POD_ID/$ID{query}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base_url}/job-done/$RUNPOD_POD_ID/$ID{query}",
        "RUNPOD_WEBHOOK_PING": f"{base_url}/ping/$RUNPOD_POD_ID",
        "RUNPOD_PING_INTERVAL": str(settings.ping_interval_seconds * 1000),
        "RUNPOD_AI_API_KEY": settings.worker_key,
        "RUNPOD_POD_ID": worker_id,
        "RUNPOD_ENDPOINT_ID": settings.endpoint_id,
    }
