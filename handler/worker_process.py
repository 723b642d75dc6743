"""The steps of the worker's process, from the model to the shutdown."""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from handler.engine.capacity import job_concurrency
from handler.engine.failed_start.second_start import SecondStart
from handler.engine.interface import RunningEngine
from handler.engine.pacing import ECONOMICAL_POSTS_PER_SECOND, WRITES_PER_SECOND, Pacer
from handler.engine.runtime import EngineRuntime
from handler.engine.sglang.adapter import SglangAdapter
from handler.engine.vllm.adapter import VllmAdapter
from handler.engine.warmup import parse_prefixes, warm_up
from handler.errors import EXIT_FAILED
from handler.metrics.cost import CostMeter, dollars_per_second
from handler.metrics.monitor import Monitor, Pushgateway
from handler.model.mistral import flag_value
from handler.model.resolve import (
    ResolvedModel,
    export_environment,
    model_sources,
    resolve_model,
)
from handler.request.body_limits import BodyLimits
from handler.request.limits import RequestLimits
from handler.request.parse import RequestParser
from handler.serve import local
from handler.serve.http.lifecycle import HttpFrontEnd
from handler.serve.http.metrics_server import MetricsServer
from handler.serve.memory import share_arenas
from handler.serve.queue.loop import QueueFrontEnd
from handler.serve.queue.ping import bounded_jobs
from handler.serve.queue.sdk_patches import LOG_LEVEL, import_sdk, sdk_environment
from handler.serve.worker import NoFrontEnd, Worker
from handler.settings.environ import (
    export,
)
from handler.settings.fields import Settings
from handler.startup.cache_key import cache_key
from handler.startup.compile_cache import CompileCache
from handler.startup.driver import check_driver
from handler.startup.gpus import visible_gpus
from handler.startup.prefetch import prefetch_weights, reads_around_page_cache
from handler.startup.timings import StartupTimings
from handler.supervisor import Supervisor

log = logging.getLogger("handler")

AdapterClass = type[VllmAdapter] | type[SglangAdapter]
ENGINES: dict[str, AdapterClass] = {"vllm": VllmAdapter, "sglang": SglangAdapter}


class WorkerProcess:
    """The worker's lifecycle: model, engine, warm-up, front end.

    Args:
        settings: the worker's settings.
        environ: the environment, which may hold engine flags.
        timings: records the stages of the start.

    Attributes:
        has_started: whether it serves, or did; what ends it then is no failed start.

    Raises:
        InvalidSetting: PREFIX_WARMUP or PROMETHEUS_PUSHGATEWAY is invalid.
    """

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], timings: StartupTimings
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._timings = timings
        self._prefixes = parse_prefixes(settings.prefix_warmup)
        self._pushgateway = self._parse_pushgateway()
        self._supervisor = Supervisor()
        self.has_started = False

    def run_local(self, job: Mapping[str, Any]) -> int:
        """Run one job, print its output and return the exit code."""
        with contextlib.ExitStack() as stack:
            runtime, caches, parser = self._start_engine(stack, mode="local")
            engine = runtime.wait_until_up()
            worker = Worker(
                runtime,
                parser,
                max_jobs=job_concurrency("auto", engine.capacity),
                front_end=NoFrontEnd(),
                request_timeout_seconds=self._settings.request_timeout_seconds,
            )
            self._log_timings()
            succeeded = local.run_job(worker, job)
            caches.finish_save()
        return 0 if succeeded else EXIT_FAILED

    def serve(self) -> int:
        """Serve the queue or HTTP until the shutdown and return the exit code."""
        settings = self._settings
        share_arenas(self._environ)
        with contextlib.ExitStack() as stack:
            http = metrics_server = None
            if settings.mode == "http":
                http = stack.enter_context(HttpFrontEnd(settings, supervisor=self._supervisor))
            elif settings.metrics_port is not None:
                metrics_server = stack.enter_context(
                    MetricsServer(settings.http_host, settings.metrics_port, self._supervisor)
                )
            runtime, caches, parser = self._start_engine(stack, mode=settings.mode)
            engine = runtime.wait_until_up()
            max_jobs = job_concurrency(settings.max_concurrency, engine.capacity)
            if settings.mode == "queue":
                is_auto = settings.max_concurrency == "auto"
                max_jobs = bounded_jobs(max_jobs, is_auto=is_auto, environ=self._environ)
            monitor = stack.enter_context(self._monitor(runtime, engine, max_jobs))
            if metrics_server is not None:
                metrics_server.publish(monitor.exposition)
            log.info("ready for %d jobs at once as %s", max_jobs, engine.models[0])
            self.has_started = True
            with signal_handlers_restored():
                if http is not None:
                    self._log_timings()
                    worker = self._worker(runtime, parser, max_jobs, monitor, http)
                    http.serve(worker, max_jobs, monitor)
                else:
                    queue = self._queue(max_jobs, monitor)
                    queue.serve(self._worker(runtime, parser, max_jobs, monitor, queue))
            caches.finish_save()
        return 0

    # ---- the engine ----

    def _start_engine(
        self, stack: contextlib.ExitStack, mode: str
    ) -> tuple[EngineRuntime, CompileCache, RequestParser]:
        """Start and warm up the engine; closing `stack` stops it."""
        settings, timings = self._settings, self._timings
        check_driver(self._environ)
        caches = stack.enter_context(
            CompileCache(
                settings.cache_root,
                root_is_required="cache_root" in settings.model_fields_set,
                key=cache_key(settings.engine, self._environ),
                volume=settings.base_path if settings.volume_cache else None,
                environ=self._environ,
                max_bytes=int(settings.cache_max_gb * 1e9),
                supervisor=self._supervisor,
            )
        )
        export(caches.environ)
        adapter = ENGINES[settings.engine]
        import_engine = partial(adapter.import_engine, settings, self._environ)
        pacer = (
            Pacer(settings.max_posts_per_second, ECONOMICAL_POSTS_PER_SECOND)
            if mode == "queue"
            else Pacer(WRITES_PER_SECOND)
        )
        second_start = SecondStart.of(self._environ)
        lowered = second_start.lowered if second_start else ()
        runtime = stack.enter_context(EngineRuntime(import_engine, pacer, timings, lowered))
        model = self._resolve_model(before_download=runtime.begin_import)
        if settings.prefetch_weights:
            self._prefetch(model.path)
        runtime.check_flags(adapter(settings, model, self._environ))
        if caches.restores:
            with timings.stage("caches", beside=True):
                caches.wait_until_restored()
        runtime.launch()
        if mode == "queue":
            with timings.stage("SDK", beside=True):
                variables = sdk_environment(settings.log_level, self._environ)
                export({}, remove=[LOG_LEVEL])
                export(variables)
                import_sdk()
        engine = runtime.wait_until_up()
        with timings.stage("warm-up"):
            warm_up(runtime, self._prefixes)
        caches.start_save()
        caches.bound_folders()
        return runtime, caches, self._parser(engine, model)

    def _prefetch(self, folder: Path) -> None:
        load_format = flag_value("LOAD_FORMAT", self._environ, self._settings.engine_args)
        if reads_around_page_cache(load_format, folder, self._environ):
            log.info("no prefetch of the weights: %s reads around the page cache", load_format)
        else:
            prefetch_weights(folder)

    def _resolve_model(self, before_download: Callable[[], None]) -> ResolvedModel:
        """Find the model; `before_download` is called before anything is downloaded."""
        with self._timings.stage("model"):
            sources = model_sources(self._settings, self._environ, before_download)
            export(sources.environment())  # huggingface-hub reads it at import
            model = resolve_model(self._settings, sources, self._environ)
            export_environment(model)
        method = model.quantization or "unquantized"
        log.info("model %s (%s) from %s", model.name, method, model.source)
        return model

    # ---- parser, monitor, front ends ----

    def _parser(self, engine: RunningEngine, model: ResolvedModel) -> RequestParser:
        return RequestParser(
            models=engine.models,
            repository=model.name,
            aliases=self._settings.model_names[1:],
            request_fields=engine.request_fields,
            adapter_routes=engine.adapter_routes,
            media_domains=self._settings.media_domains,
            context_tokens=engine.capacity.max_model_tokens,
            validators=engine.validators,
            body_limits=BodyLimits.from_settings(
                self._settings, engine.capacity.max_model_tokens, engine.max_token_characters
            ),
            limits=RequestLimits.from_settings(
                self._settings, constrains_tools=engine.constrains_tools
            ),
        )

    def _monitor(self, runtime: EngineRuntime, engine: RunningEngine, max_jobs: int) -> Monitor:
        max_running = min(max_jobs, engine.capacity.max_sequences)
        price = dollars_per_second(self._settings, visible_gpus(self._environ))
        return Monitor(
            runtime,
            self._timings,
            max_running,
            CostMeter(price, start_seconds=time.time() - self._timings.began),
            self._pushgateway,
            self._supervisor,
        )

    def _parse_pushgateway(self) -> Pushgateway | None:
        settings = self._settings
        if settings.pushgateway is None:
            return None
        return Pushgateway(
            settings.pushgateway,
            job=settings.push_job,
            endpoint=settings.endpoint_id or "none",
            worker=settings.worker_id or "none",
        )

    def _worker(
        self,
        runtime: EngineRuntime,
        parser: RequestParser,
        max_jobs: int,
        monitor: Monitor,
        front_end: HttpFrontEnd | QueueFrontEnd,
    ) -> Worker:
        return Worker(
            runtime,
            parser,
            max_jobs=max_jobs,
            front_end=front_end,
            request_timeout_seconds=self._settings.request_timeout_seconds,
            monitor=monitor,
            log_content=self._settings.log_content,
        )

    def _queue(self, max_jobs: int, monitor: Monitor) -> QueueFrontEnd:
        ready = time.time()

        def first_poll() -> None:
            self._timings.since(ready, "first take")
            self._log_timings()

        return QueueFrontEnd(
            max_jobs=max_jobs,
            drain_timeout_seconds=self._settings.drain_timeout_seconds,
            on_first_poll=first_poll,
            on_post=monitor.metrics.posted,
            supervisor=self._supervisor,
        )

    def _log_timings(self) -> None:
        for line in str(self._timings).splitlines():
            log.info(line)


@contextlib.contextmanager
def signal_handlers_restored() -> Iterator[None]:
    """Restore the signal handlers that a front end or asyncio has replaced or removed.

    So a signal can also interrupt the shutdown of the engine.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
