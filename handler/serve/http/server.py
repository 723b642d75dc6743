"""The HTTP server: uvicorn on its own thread.

It starts before the engine and stops after it, so health checks are answered during the start. The
engine may be a fork of this process: a lock that the server's thread held at that moment (of a
stream, of a module that it imports, of a cached property) would stay locked there, so the thread
pauses between two steps of its loop while the process forks.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress

import uvicorn
import uvloop

from handler.engine.interface import AsgiApp
from handler.errors import InvalidSetting, is_lasting
from handler.serve.http.uvicorn_patches import LimitedProtocol
from handler.supervisor import Supervisor

KEEP_ALIVE_SECONDS = 75
STOP_TIMEOUT_SECONDS = 5.0
BACKLOG = 2048
PAUSE_TIMEOUT_SECONDS = 5.0

log = logging.getLogger(__name__)


class ServerEnded(Exception):
    """uvicorn has returned without being asked to."""


class HttpServer:
    """Serves one app on some ports; use as `with HttpServer(…)`.

    Args:
        app: an ASGI app; the server calls it on its own event loop.
        host: the address to listen on.
        ports: the ports by the name of their setting.
        supervisor: watches the server's thread.

    Raises:
        InvalidSetting: a port is in use, or the machine does not have the address.
    """

    def __init__(
        self,
        app: AsgiApp,
        host: str,
        ports: Mapping[str, int],
        supervisor: Supervisor | None = None,
    ) -> None:
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
        self._thread = (supervisor or Supervisor()).thread("HTTP server", self._main)
        self._is_stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forking = threading.local()  # of the thread that forks: an event, set after the fork

    def __enter__(self) -> "HttpServer":
        # Python calls the newest hook first: logging takes its lock after the pause.
        os.register_at_fork(
            before=self._pause,
            after_in_parent=self._resume,
            after_in_child=self._close_in_child,
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._is_stopping = True
        self._thread.join(STOP_TIMEOUT_SECONDS)

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self._loop = runner.get_loop()
            runner.run(self._server.serve(sockets=self._sockets))
        if not self._is_stopping:
            raise ServerEnded

    def _pause(self) -> None:
        """Have the server's thread wait until this thread has forked."""
        paused, forked = threading.Event(), threading.Event()
        self._forking.event = forked

        def wait() -> None:
            paused.set()
            forked.wait()

        if self._loop is None or threading.current_thread() is self._thread:
            return
        try:
            self._loop.call_soon_threadsafe(wait)
        except RuntimeError:  # the server has ended
            return
        if not paused.wait(PAUSE_TIMEOUT_SECONDS):
            log.warning("the HTTP server was busy while the process forked")

    def _resume(self) -> None:
        self._forking.event.set()

    def _close_in_child(self) -> None:
        """Close ports and connections in a forked process, which would keep them open."""
        self._loop = None  # its thread is not here
        for listening in self._sockets:
            os.close(listening.detach())  # `close` waits for the loop, which does not run here
        for descriptor in connections_to(self.ports):
            os.close(descriptor)


def connections_to(ports: Collection[int]) -> list[int]:
    """Return the descriptors of this process's sockets with these local ports.

    uvicorn does not know of one that was accepted in the last step of its loop.
    """
    found = []
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed, or no socket
            each = socket.socket(fileno=int(entry))
            try:
                is_ip = each.family in (socket.AF_INET, socket.AF_INET6)
                if is_ip and each.getsockname()[1] in ports:
                    found.append(each.fileno())
            finally:
                each.detach()
    return found


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
            f"{name}={port} on {host} is not available: {error.strerror}.",
            lasting=is_lasting(error),
        ) from error
    listening.set_inheritable(False)
    return listening
