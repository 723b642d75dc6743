"""The end of a worker whose start has failed: it fails jobs with the reason, or is unhealthy.

A lasting cause follows from the configuration alone: every other worker of the endpoint would end
with it, and its jobs would wait in the queue for a day. So jobs and requests are failed with the
reason, as long as some come. Any other cause may be of this host or minute, and no job is failed
with it: the worker is reported as unhealthy, as by the SDK's fitness checks, so that the platform
takes another host.

Nothing of the start runs any more, and the cause may be an invalid setting.
"""

import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

import httpx

from handler.engine.runtime import EngineRuntime
from handler.errors import (
    InvalidSetting,
    ModelUnavailable,
    StartError,
    WorkerNotStarted,
    hide_secrets,
    redact,
    render,
)
from handler.logs import configure_logging
from handler.metrics.prometheus import failed_start_exposition
from handler.metrics.request_log import RequestRecord
from handler.request.parse import RequestParser
from handler.serve.http.app import HEALTH_PATH
from handler.serve.http.lifecycle import HttpFrontEnd
from handler.serve.http.metrics_server import MetricsServer
from handler.serve.queue.loop import QueueFrontEnd
from handler.serve.queue.sdk_patches import LOG_LEVEL, import_sdk, sdk_environment
from handler.serve.worker import NoFrontEnd, Output, PreparedJob, Worker
from handler.settings.environ import export, readable_settings
from handler.settings.fields import Settings
from handler.supervisor import Supervisor

log = logging.getLogger(__name__)

MAX_JOBS = 32  # which only get an error
END_INTERVAL_SECONDS = 0.1
REPORT_TIMEOUT_SECONDS = 10.0  # a busy host is slow to send it
REPORT_REQUEST_TIMEOUT_SECONDS = 2.0  # as in the SDK, as is the next
MAX_REASON_CHARACTERS = 256
ENGINE_THREAD_TIMEOUT_SECONDS = 60.0
SECRET_NAME = re.compile(r"TOKEN$|_KEY$|SECRET|PASSWORD")
MIN_SECRET_CHARACTERS = 8
SEE_LOG = "The worker cannot start; its log has the reason."


def after_failed_start(error: BaseException, reason: str, environ: Mapping[str, str]) -> None:
    """Fail jobs with the reason of a failed start, or report the worker as unhealthy.

    Args:
        error: what ended the start.
        reason: one sentence for the user.
        environ: the worker's variables, which may be the cause.
    """
    settings, unreadable = readable_settings(environ)
    names = {name for name in environ if SECRET_NAME.search(name)}
    hide_secrets(settings.secrets())
    hide_secrets(environ[n] for n in names if len(environ[n]) >= MIN_SECRET_CHARACTERS)
    if settings.mode == "local":
        return
    idle_seconds = settings.startup_error_seconds
    if not (isinstance(error, StartError) and error.lasting and idle_seconds):
        report_unhealthy(_check_name(error), redact(reason), environ)
        return
    configure_logging(settings.log_level, settings.log_format)
    logging.disable(logging.NOTSET)  # an engine that was being imported has turned it off
    log.error("the worker cannot start, and fails what it is asked: %s", reason)
    failure = WorkerNotStarted(f"The worker cannot start. {reason}")
    try:
        if settings.mode == "http":
            _fail_requests(settings, failure, idle_seconds, "api_key" in unreadable)
        else:
            with _failure_metrics(settings, error.exit_code):
                _fail_jobs(settings, failure, idle_seconds, environ)
    finally:
        logging.disable()  # the reason is the last line of the log


def report_unhealthy(check: str, reason: str, environ: Mapping[str, str]) -> None:
    """Report a failed check to the platform, as `rp_fitness` of the SDK does; at most 10 s.

    Args:
        check: what failed.
        reason: one sentence without secrets.
        environ: has the platform's address and key.
    """
    url, key = environ.get("RUNPOD_WEBHOOK_PING"), environ.get("RUNPOD_AI_API_KEY")
    if not url or url == "PING_NOT_SET" or not key:
        return
    url = url.replace("$RUNPOD_POD_ID", environ.get("RUNPOD_POD_ID", ""))
    sdk = version("runpod")
    parameters = {
        "status": "unhealthy",
        "check": check,
        "reason": reason[:MAX_REASON_CHARACTERS],
        "runpod_version": sdk,
    }
    headers = {"Authorization": key, "User-Agent": f"RunPod-Python-SDK/{sdk}"}

    def send() -> None:  # not by requests: an import beside an engine's may take longer
        try:
            httpx.get(
                httpx.URL(url).copy_merge_params(parameters),
                headers=headers,
                timeout=REPORT_REQUEST_TIMEOUT_SECONDS,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.debug("the report was not sent: %r", error)

    sender = threading.Thread(target=send, name="report", daemon=True)  # a name may not resolve
    sender.start()
    sender.join(REPORT_TIMEOUT_SECONDS)


def _check_name(error: BaseException) -> str:
    if isinstance(error, InvalidSetting):
        return "settings"
    if isinstance(error, ModelUnavailable):
        return "model"
    return "engine" if isinstance(error, StartError) else "worker"


# ---- HTTP ----


def _fail_requests(
    settings: Settings, failure: WorkerNotStarted, idle_seconds: float, without_keys: bool
) -> None:
    """Serve the failure; where the keys are the cause, no caller gets the reason."""
    try:
        if without_keys:
            raise InvalidSetting("API_KEY is invalid.")
        front_end = HttpFrontEnd(settings, failure)
    except InvalidSetting:
        usual = {
            "api_key": None,
            "allow_unauthenticated": True,
            "health_check_path": HEALTH_PATH,
        }
        settings = settings.model_copy(update=usual)
        try:
            front_end = HttpFrontEnd(settings, WorkerNotStarted(SEE_LOG))
        except InvalidSetting as error:  # the port
            log.debug("HTTP cannot be served: %s", error)
            return
    with front_end:
        front_end.serve_failure(idle_seconds)


# ---- the queue ----


class NoEngine(EngineRuntime):
    """The runtime of a worker without an engine, which ends when it is told to."""

    def __init__(self) -> None:
        super().__init__(lambda: None)

    def end(self) -> None:
        """End the front end, as the death of an engine does."""
        for notify in self._on_death:
            notify()


class FailingWorker(Worker):
    """Fails each job, whatever it asks.

    Attributes:
        last_job_at: the time of the last job, on the monotonic clock.
    """

    def __init__(self, failure: WorkerNotStarted) -> None:
        self.no_engine = NoEngine()
        super().__init__(
            self.no_engine,
            RequestParser(models=[""], repository="", request_fields={}),
            max_jobs=MAX_JOBS,
            front_end=NoFrontEnd(),
        )
        self._failure = failure
        self.last_job_at = time.monotonic()

    def prepare(self, job: Mapping[str, Any]) -> PreparedJob:
        self.last_job_at = time.monotonic()
        raise self._failure

    async def outputs(
        self,
        job: Mapping[str, Any],
        record: RequestRecord,
        *,
        execution_timeout_seconds: float | None = None,
        prepared: PreparedJob | None = None,
        is_large: bool = False,
    ) -> AsyncIterator[Output]:
        self.last_job_at = time.monotonic()
        record.failed(self._failure)
        yield {"error": render(self._failure)}


@contextmanager
def _failure_metrics(settings: Settings, exit_code: int) -> Iterator[None]:
    """Serve METRICS_PORT: `/ping` with 503, `/metrics` with the exit code."""
    if settings.metrics_port is None:
        yield
        return

    async def exposition() -> str:
        return failed_start_exposition(exit_code)

    with ExitStack() as stack:
        try:
            server = MetricsServer(settings.http_host, settings.metrics_port, failed=True)
            stack.enter_context(server).publish(exposition)
        except InvalidSetting as error:  # the port is in use
            log.debug("no metrics are served: %s", error)
        yield


def _fail_jobs(
    settings: Settings, failure: WorkerNotStarted, idle_seconds: float, environ: Mapping[str, str]
) -> None:
    _wait_for_import()
    try:
        variables = sdk_environment(settings.log_level, environ)
    except InvalidSetting:
        variables = sdk_environment(settings.log_level, {})
    export({}, remove=[LOG_LEVEL])
    export(variables)
    import_sdk()
    worker, ended, supervisor = FailingWorker(failure), threading.Event(), Supervisor()

    def begin_idle_time() -> None:
        worker.last_job_at = time.monotonic()

    front_end = QueueFrontEnd(
        max_jobs=MAX_JOBS,
        drain_timeout_seconds=settings.drain_timeout_seconds,
        on_first_poll=begin_idle_time,
        on_post=lambda *_: None,
        supervisor=supervisor,
    )

    def end_when_idle() -> None:
        begin_idle_time()
        while (left := worker.last_job_at + idle_seconds - time.monotonic()) > 0:
            if ended.wait(left):
                return
        while not ended.wait(END_INTERVAL_SECONDS):
            worker.no_engine.end()

    supervisor.thread("idle", end_when_idle).start()
    try:
        front_end.serve(worker)
    finally:
        ended.set()


def _wait_for_import() -> None:
    """Wait for an engine that is being imported: two imports at once may disturb each other."""
    for thread in threading.enumerate():
        if thread.name == "engine":
            thread.join(ENGINE_THREAD_TIMEOUT_SECONDS)
