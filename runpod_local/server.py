"""The aiohttp server with all routes below `/v2/{endpoint}`, on 127.0.0.1 only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from runpod_local.endpoint_state import ApiError, EndpointState, Settings
from runpod_local.openai_api import OpenAIApi
from runpod_local.user_api import UserApi
from runpod_local.worker_api import WorkerApi

HOST = "127.0.0.1"
SHUTDOWN_TIMEOUT_SECONDS = 1.0


@asynccontextmanager
async def running_server(state: EndpointState) -> AsyncIterator[str]:
    """Serve in the running event loop; yields the endpoint's URL.

    A handler is cancelled when its client disconnects: an abandoned poll must not take a job, and
    the job of a user who left is cancelled.
    """
    root = f"/v2/{state.settings.endpoint_id}"
    # No limit for bodies: the routes have their own.
    app = web.Application(client_max_size=0, middlewares=[api_errors_as_json])
    for api in (WorkerApi(state), UserApi(state), OpenAIApi(state)):
        for route in api.routes():
            app.router.add_route(route.method, root + route.path, route.handler)
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS,
        max_line_size=state.settings.max_line_bytes,
    )
    await runner.setup()
    try:
        await web.TCPSite(
            runner, HOST, state.settings.port, backlog=state.settings.accept_queue
        ).start()
        port = runner.addresses[0][1]
        yield f"http://{HOST}:{port}{root}"
    finally:
        state.close()
        await runner.cleanup()


@web.middleware
async def api_errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return web.json_response({"error": error.message}, status=error.status)


def worker_environment(base_url: str, settings: Settings, worker_id: str) -> dict[str, str]:
    """Return the environment variables that make the SDK a worker of this endpoint.

    The SDK replaces `$ID` in the job-take URL by the worker's id, and in the two POST URLs
    `$RUNPOD_POD_ID` by the worker's id and `$ID` by the job's. It appends `&job_in_progress=` and
    `&isStream=`, so the URLs need a query. It derives the job-stop URL from `/job-take/`.
    `RUNPOD_ENDPOINT_ID` makes it log JSON. What else the real platform sets is not known.
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
