"""The worker's start: settings → model → engine → warm-up → front door, and its exit codes.

0  the queue or HTTP was served to the end, or test_input.json was answered
1  the local job failed, or something unforeseen
2  a setting means nothing      3  no model
4  the engine did not start     5  the engine died
143, 130  SIGTERM or SIGINT before the start was over
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from handler import logs
from handler.engine import warmup
from handler.engine.adapters import adapter_for
from handler.engine.capacity import concurrency
from handler.engine.pacing import FLUSHES_PER_SECOND, Pacer
from handler.engine.runtime import EngineRuntime
from handler.environ import load
from handler.errors import EXIT_FAILED, StartError, keep_secret
from handler.metrics.monitor import Monitor, PushTarget, push_target
from handler.model.resolve import locate
from handler.request.parse import RequestParser
from handler.serve import local
from handler.serve.http.lifecycle import HttpFrontEnd
from handler.serve.http.metrics_server import MetricsServer
from handler.serve.queue.loop import QueueFrontEnd, prepare_sdk
from handler.serve.worker import Worker
from handler.settings import Settings
from handler.startup.compile_cache import CompileCache
from handler.startup.prefetch import prefetch
from handler.startup.timings import StartupTimings, process_began

log = logging.getLogger("handler")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Start the worker and serve; return the process's exit code."""
    stages = StartupTimings(process_began())
    stages.since(stages.began, "interpreter")
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _leave)
    try:
        chosen = load(environ)
        logs.configure(chosen)
        keep_secret(chosen.secrets())
        is_local = chosen.mode == "local" or options.test_input is not None
        job = local.read_job(options.test_input) if is_local else None
        return _serve(chosen, environ, job, stages)
    except StartError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    except SystemExit as left:
        return int(left.code or 0)
    except Exception:
        traceback.print_exc()
        return EXIT_FAILED


def _serve(
    chosen: Settings,
    environ: Mapping[str, str],
    job: dict[str, Any] | None,
    stages: StartupTimings,
) -> int:
    """Go through the steps of the start; `job` is the local one, None where others come."""
    mode = "local" if job is not None else chosen.mode
    prefixes, push = warmup.read(chosen.prefix_warmup), push_target(chosen)
    with contextlib.ExitStack() as stack:
        http = stack.enter_context(HttpFrontEnd(chosen)) if mode == "http" else None
        scraped = _metrics_door(chosen, stack) if mode == "queue" else None
        with stages.stage("model"):
            checkpoint = locate(chosen)
        method = checkpoint.quantization or "unquantized"
        log.info("model %s (%s) from %s", checkpoint.name, method, checkpoint.source)
        adapter = adapter_for(chosen, checkpoint, environ)
        if chosen.prefetch_weights:
            prefetch(checkpoint.path)
        caches = stack.enter_context(CompileCache(chosen, environ))
        flushes = chosen.max_posts_per_second if mode == "queue" else FLUSHES_PER_SECOND
        host = stack.enter_context(EngineRuntime(adapter, Pacer(flushes), stages))
        if caches.on_volume:
            with stages.stage("caches"):
                caches.restored()
        host.launch()
        if mode == "queue":
            with stages.stage("SDK"):
                prepare_sdk(chosen)
        running = host.wait_until_up()
        with stages.stage("warm-up"):
            warmup.run(host, prefixes)
        caches.begin_save()
        reader = RequestParser(
            running.models,
            checkpoint.name,
            running.request_fields,
            running.adapter_routes,
            chosen.media_domains,
        )
        if job is not None:
            worker = Worker(host, reader, chosen.request_timeout_seconds)
            _started(stages)
            code = 0 if local.run(worker, job) else EXIT_FAILED
            caches.finish()
            return code
        _serve_jobs(chosen, host, reader, stages, push, (http, scraped))
        caches.finish()
    return 0


def _serve_jobs(
    chosen: Settings,
    host: EngineRuntime,
    reader: RequestParser,
    stages: StartupTimings,
    push: PushTarget | None,
    doors: tuple[HttpFrontEnd | None, MetricsServer | None],
) -> None:
    """Open the front door, and keep it open until the end."""
    http, scraped = doors
    running = host.wait_until_up()
    jobs_at_once = concurrency(chosen.max_concurrency, running.capacity)
    most = min(jobs_at_once, running.capacity.max_sequences)
    with Monitor(host, stages, most, push) as monitor:
        worker = Worker(
            *(host, reader, chosen.request_timeout_seconds, monitor, chosen.log_content),
            jobs_at_once,
        )
        log.info("ready for %d jobs at once as %s", jobs_at_once, running.models[0])
        if http is not None:
            _started(stages)
            http.serve(worker, jobs_at_once, monitor)
            return
        if scraped is not None:
            scraped.exposition = monitor.exposition
        _serve_queue(chosen, worker, jobs_at_once, monitor, stages)


def _serve_queue(
    chosen: Settings,
    worker: Worker,
    jobs_at_once: int,
    monitor: Monitor,
    stages: StartupTimings,
) -> None:
    ready = time.time()

    def first_take() -> None:
        stages.since(ready, "first take")
        _started(stages)

    QueueFrontEnd(
        worker,
        jobs_at_once,
        chosen.drain_timeout_seconds,
        first_take,
        monitor.metrics.posted,
    ).serve()


def _metrics_door(chosen: Settings, stack: contextlib.ExitStack) -> MetricsServer | None:
    if chosen.metrics_port is None:
        return None
    return stack.enter_context(MetricsServer(chosen.http_host, chosen.metrics_port))


def _started(stages: StartupTimings) -> None:
    """Say what the start was made of."""
    for line in str(stages).splitlines():
        log.info(line)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m handler",
        description="Serves a Runpod queue in the platform's environment, HTTP where PORT is set, "
        "and else answers one job.",
    )
    parser.add_argument("--test_input", metavar="JSON", help="the job to answer, as on Runpod")
    return parser.parse_args(arguments)


def _leave(number: int, _: FrameType | None) -> None:
    """End the start in order: what has been started is stopped on the way out."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    code = main(sys.argv[1:], os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    # All that was started is stopped. The interpreter's own end would take seconds with torch
    # loaded, and trip over the engine's finalizers.
    os._exit(code)
