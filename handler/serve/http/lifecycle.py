"""The lifecycle of the HTTP front end: starting, ready, draining, stopped."""

import logging
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from handler.engine.awake_clock import awake_clock
from handler.engine.interface import AsgiApp
from handler.errors import EngineDied, WorkerNotStarted
from handler.logs import pluralize
from handler.metrics.monitor import Monitor
from handler.serve.http.admission import AdmissionQueue
from handler.serve.http.app import HttpApp, Service
from handler.serve.http.auth import api_keys
from handler.serve.http.inference import Inference
from handler.serve.http.jobs import HttpJobs
from handler.serve.http.server import HttpServer
from handler.serve.worker import Worker
from handler.settings.fields import Settings
from handler.settings.types import parse_origins
from handler.supervisor import Supervisor

log = logging.getLogger(__name__)

POLL_INTERVAL_SECONDS = 0.05
ACCEPT_GRACE_SECONDS = 0.2  # a new connection needs this time to count as a request


class HttpFrontEnd:
    """Serves HTTP until SIGTERM, SIGINT or the engine's death. A second signal ends the drain.

    Args:
        settings: the worker's settings.
        failure: of the start, if it is all that is served.
        supervisor: of the worker's threads.

    Raises:
        InvalidSetting: API_KEY is missing or invalid, HEALTH_CHECK_PATH is another route, or a
            port is in use.
    """

    def __init__(
        self,
        settings: Settings,
        failure: WorkerNotStarted | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        port, health_port = settings.http_port, settings.port_health
        if health_port == port:
            health_port = None
        origins = parse_origins(settings.cors_origins)
        keys = api_keys(
            settings.api_key.get_secret_value() if settings.api_key else "",
            host=settings.http_host,
            origins=origins,
            is_behind_gateway=settings.endpoint_id is not None,
            allow_all=settings.allow_unauthenticated,
        )
        self._host, self._port = settings.http_host, port
        self._max_waiting = settings.max_queue
        self._drain_timeout_seconds = settings.drain_timeout_seconds
        has_playground = settings.playground and failure is None
        path = settings.health_check_path
        self._app = HttpApp(keys, health_port, has_playground, path, failure)
        ports = {"PORT": port} | ({"PORT_HEALTH": health_port} if health_port else {})
        self._supervisor = supervisor or Supervisor()
        app = _with_cors(self._app, origins)
        self._server = HttpServer(app, self._host, ports, self._supervisor)
        self._stop_requested = threading.Event()
        self._signal: str | None = None
        self._second_signal = threading.Event()

    def __enter__(self) -> "HttpFrontEnd":
        self._server.__enter__()
        host = f"[{self._host}]" if ":" in self._host else self._host
        log.info("listening on http://%s:%d", host, self._port)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    async def report_progress(self, job: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        self._service().jobs.report_progress(job["id"], counts)

    def batch_line_slot(self) -> AbstractAsyncContextManager[None]:
        return self._service().admission.batch_line_slot()

    def _service(self) -> Service:
        if self._app.service is None:
            raise RuntimeError("a batch started before serve()")
        return self._app.service

    def serve(self, worker: Worker, max_jobs: int, monitor: Monitor) -> None:
        """Serve requests until the shutdown.

        Raises:
            EngineDied: the engine died; all running requests have failed.
            LoopFailed: a thread of the worker ended by an exception; likewise.
        """
        with awake_clock.ticking(self._supervisor):
            self._serve(worker, max_jobs, monitor)

    def _serve(self, worker: Worker, max_jobs: int, monitor: Monitor) -> None:
        runtime = worker.runtime
        admission = AdmissionQueue(max_jobs, self._max_waiting)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        self._app.publish(
            Service(
                inference=Inference(worker, admission),
                jobs=HttpJobs(worker, admission),
                admission=admission,
                exposition=monitor.exposition,
            )
        )
        runtime.on_death(self._stop_requested.set)
        self._supervisor.on_failure(self._stop_requested.set)
        if not runtime.dead:
            self._app.enter("ready")
            self._stop_requested.wait()
        if runtime.dead and self._signal is None:
            self._app.enter("dead")
            self._wait_for_requests(worker.last_output_grace_seconds)
            raise EngineDied("The engine died. The platform must replace this worker.")
        if (failure := self._supervisor.failure) and self._signal is None:
            self._app.enter("dead")
            log.error("%s: running requests fail, and the worker ends", failure)
            runtime.fail_requests("The worker failed; it is being replaced.")
            self._wait_for_requests(worker.last_output_grace_seconds)
            self._supervisor.check()
        self._drain(worker, admission)

    def serve_failure(self, idle_seconds: float) -> None:
        """Answer with the start's failure until there was no request for that time, or a signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        while (left := self._app.last_request_at + idle_seconds - time.monotonic()) > 0:
            if self._stop_requested.wait(left):
                return

    def _drain(self, worker: Worker, admission: AdmissionQueue) -> None:
        self._app.enter("draining")
        unfinished = self._app.unfinished
        waiting = f"waiting for {pluralize(unfinished, 'request')}"
        log.info("%s: %s", self._signal, waiting if unfinished else "no request is running")
        self._wait_for_requests(self._drain_timeout_seconds)
        if not self._app.unfinished:
            return
        if not self._second_signal.is_set():
            log.warning(
                "%s did not finish in %g s",
                pluralize(self._app.unfinished, "request"),
                self._drain_timeout_seconds,
            )
        self._second_signal.clear()
        admission.close()
        worker.runtime.fail_requests("The worker was stopped before the response was complete.")
        self._wait_for_requests(worker.last_output_grace_seconds)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._stop_requested.is_set():
            unfinished = pluralize(self._app.unfinished, "request")
            log.warning("%s again: no more waiting for %s", name, unfinished)
            self._second_signal.set()
            return
        self._signal = name
        self._stop_requested.set()

    def _wait_for_requests(self, timeout_seconds: float) -> None:
        time.sleep(ACCEPT_GRACE_SECONDS)
        deadline = awake_clock.now() + timeout_seconds
        while self._app.unfinished and awake_clock.now() < deadline:
            if self._second_signal.wait(POLL_INTERVAL_SECONDS):
                return


def _with_cors(app: HttpApp, origins: list[str]) -> AsgiApp:
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after", "x-should-retry"],
    )
