"""The metrics server on METRICS_PORT, for queue workers."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from handler.errors import EngineUnavailable, RequestError, UnknownRoute
from handler.serve.http.app import METRICS_TYPE, NOT_READY, error_response
from handler.serve.http.body import BodyMemory, RequestBody
from handler.serve.http.server import HttpServer


class MetricsServer:
    """Serves `/metrics` and `/ping` without an API key.

    Args:
        host: the address to listen on.
        port: METRICS_PORT.

    Raises:
        InvalidSetting: the port is in use.
    """

    def __init__(self, host: str, port: int) -> None:
        self._exposition: Callable[[], Awaitable[str]] | None = None
        self._server = HttpServer(self._serve, host, {"METRICS_PORT": port})

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
            return Response(status_code=204 if self._exposition is None else 200)
        if path != "/metrics":
            raise UnknownRoute(f"There is no route {path!r} on this port.")
        if self._exposition is None:
            raise EngineUnavailable(NOT_READY["starting"])
        return PlainTextResponse(await self._exposition(), headers={"content-type": METRICS_TYPE})
