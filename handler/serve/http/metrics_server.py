"""The metrics on a port of their own, where the front door is not HTTP."""

from collections.abc import Awaitable, Callable

from handler.engine.interface import Receive, Scope, Send
from handler.errors import EngineUnavailable, RequestError, UnknownRoute
from handler.serve.http.app import EXPOSITION
from handler.serve.http.request import BodyMemory, HttpCall
from handler.serve.http.server import HttpServer


class MetricsServer:
    """Serves `/metrics` and `/ping` to whoever reaches the port.

    Args:
        host: the address to listen on.
        port: METRICS_PORT.

    Attributes:
        exposition: returns the metrics; None while the engine starts.

    Raises:
        BadSetting: the port is taken.
    """

    def __init__(self, host: str, port: int) -> None:
        self.exposition: Callable[[], Awaitable[str]] | None = None
        self._server = HttpServer(self._serve, host, {"METRICS_PORT": port})

    def __enter__(self) -> "MetricsServer":
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = HttpCall(scope, receive, send, BodyMemory())
        try:
            if call.path == "/ping":
                await call.answer(204 if self.exposition is None else 200)
            elif call.path != "/metrics":
                raise UnknownRoute(f"There is no route {call.path!r} on this port.")
            elif self.exposition is None:
                raise EngineUnavailable("The engine is starting.")
            else:
                await call.answer(200, (await self.exposition()).encode(), EXPOSITION)
        except RequestError as error:
            await call.answer_error(error)
