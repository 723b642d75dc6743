"""The HTTP front door: open before the engine is up, closed after the last answer has left."""

import logging
import signal
import threading
import time
from types import FrameType

from starlette.middleware.cors import CORSMiddleware

from handler.engine.interface import AsgiApp
from handler.errors import EngineDied
from handler.metrics.monitor import Monitor
from handler.serve.http.admission import AdmissionQueue
from handler.serve.http.app import App, Service
from handler.serve.http.auth import keys
from handler.serve.http.inference import Inference
from handler.serve.http.jobs import Jobs
from handler.serve.http.server import HttpServer
from handler.serve.worker import Worker
from handler.setting_types import origins
from handler.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
NOTICE_SECONDS = 0.2  # for a request that has just been accepted to be seen


class HttpFrontEnd:
    """Serves until SIGTERM, SIGINT or the engine's death.

    Args:
        settings: ports, keys, limits.

    Raises:
        BadSetting: a key is missing, or a port is taken.
    """

    def __init__(self, settings: Settings) -> None:
        health = settings.port_health if settings.port_health != settings.http_port else None
        self._settings = settings
        self._app = App(keys(settings), health, settings.playground)
        ports = {"PORT": settings.http_port} | ({"PORT_HEALTH": health} if health else {})
        self._server = HttpServer(_with_cors(self._app, settings), settings.http_host, ports)
        self._over = threading.Event()
        self._signal: str | None = None

    def __enter__(self) -> "HttpFrontEnd":
        self._server.__enter__()
        host, port = self._settings.http_host, self._settings.http_port
        log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def serve(self, worker: Worker, jobs_at_once: int, monitor: Monitor) -> None:
        """Answer requests until the end.

        Raises:
            EngineDied: the engine died; every request that ran has failed with an error.
        """
        host = worker.host
        slots = AdmissionQueue(jobs_at_once, self._settings.max_queue)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        self._app.service = Service(
            Inference(worker, slots), Jobs(worker, slots), slots, monitor.exposition
        )
        host.on_death(self._over.set)
        if not host.dead:
            self._app.state = "ready"
            self._over.wait()
        if host.dead and self._signal is None:
            self._app.state = "dead"
            self._wait(worker.last_seconds)
            raise EngineDied("The engine died. The platform has to replace this worker.")
        self._app.state = "draining"
        log.info("%s: %d requests to finish", self._signal, self._app.busy)
        self._wait(self._settings.drain_timeout_seconds)
        if self._app.busy:
            log.warning(
                "%d requests did not finish in %g s",
                *(self._app.busy, self._settings.drain_timeout_seconds),
            )
            slots.closed = True
            host.fail_requests("The worker was stopped before the answer was complete.")
            self._wait(worker.last_seconds)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        self._over.set()

    def _wait(self, seconds: float) -> None:
        """Wait until no request is open, no longer than that."""
        time.sleep(NOTICE_SECONDS)
        deadline = time.monotonic() + seconds
        while self._app.busy and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)


def _with_cors(app: App, settings: Settings) -> AsgiApp:
    allowed = origins(settings.cors_origins)
    if not allowed:
        return app
    return CORSMiddleware(
        app,
        allow_origins=allowed,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after", "x-should-retry"],
    )
