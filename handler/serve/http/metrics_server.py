"""The metrics server on METRICS_PORT, for queue workers."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from handler.errors import EngineUnavailable, RequestError, UnknownRoute
from handler.serve.http.app import (
    METRICS_TYPE,
    NOT_READY,
    PING_STATUS,
    State,
    error_response,
)
from handler.serve.http.body import BodyMemory, RequestBody
from handler.serve.http.server import HttpServer
from handler.supervisor import Supervisor


class MetricsServer:
    """Serves `/metrics` and `/ping` without an API key.

    Args:
        host: the address to listen on.
        port: METRICS_PORT.
        supervisor: watches the server's thread.
        failed: whether the start has failed: `/ping` answers 503 then.

    Raises:
        InvalidSetting: the port is in use.
    """

    def __init__(
        self,
        host: str,
        port: int,
        supervisor: Supervisor | None = None,
        *,
        failed: bool = False,
    ) -> None:
        self._exposition: Callable[[], Awaitable[str]] | None = None
        self._failed = failed
        self._server = HttpServer(self._serve, host, {"METRICS_PORT": port}, supervisor)

    def __enter__(self) -> "MetricsServer":
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def publish(self, exposition: Callable[[], Awaitable[str]]) -> None:
        """Set the function that returns the metrics; before, `/metrics` answers 503."""
        self._exposition = exposition

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._response(scope["path"])
        except RequestError as error:
            body = RequestBody(Request(scope), BodyMemory())
            response = error_response(error, "", body)
        await response(scope, receive, send)

    async def _response(self, path: str) -> Response:
        if path == "/ping":
            state: State = "starting" if self._exposition is None else "ready"
            return Response(status_code=PING_STATUS["failed" if self._failed else state])
        if path != "/metrics":
            raise UnknownRoute(f"There is no route {path!r} on this port.")
        if self._exposition is None:
            raise EngineUnavailable(NOT_READY["starting"])
        return PlainTextResponse(await self._exposition(), headers={"content-type": METRICS_TYPE})
