"""The HTTP server: uvicorn on its own thread.

It starts before the engine and stops after it, so health checks are answered during the start.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any

import uvicorn
import uvloop

from handler.engine.interface import AsgiApp
from handler.errors import InvalidSetting
from handler.serve.http.uvicorn_patches import LimitedProtocol

KEEP_ALIVE_SECONDS = 75
STOP_TIMEOUT_SECONDS = 5.0
BACKLOG = 2048


class HttpServer:
    """Serves one app on some ports; use as `with HttpServer(…)`.

    Args:
        app: an ASGI app; the server calls it on its own event loop.
        host: the address to listen on.
        ports: the ports by the name of their setting.

    Raises:
        InvalidSetting: a port is in use, or the machine does not have the address.
    """

    def __init__(self, app: AsgiApp, host: str, ports: Mapping[str, int]) -> None:
        self._sockets = [_listen(host, name, port) for name, port in ports.items()]
        self.ports = [each.getsockname()[1] for each in self._sockets]
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http=LimitedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
            backlog=BACKLOG,
        )
        # Its warnings are about invalid requests of clients.
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._main, name="http", daemon=True)

    def __enter__(self) -> "HttpServer":
        os.register_at_fork(after_in_child=self._close_in_child)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT_SECONDS)

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._server.serve(sockets=self._sockets))

    def _close_in_child(self) -> None:
        """Close ports and connections in a forked process, which would keep them open."""
        for listening in self._sockets:
            listening.close()
        for connection in self._server.server_state.connections:
            transport: Any = connection.transport
            prepared = transport and transport.get_extra_info("socket")
            if prepared is not None and prepared.fileno() >= 0:
                os.close(prepared.fileno())


def _listen(host: str, name: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)  # connections wait here until the loop runs
    except OSError as error:
        listening.close()
        raise InvalidSetting(
            f"{name}={port} on {host} is not available: {error.strerror}."
        ) from error
    listening.set_inheritable(False)
    return listening
