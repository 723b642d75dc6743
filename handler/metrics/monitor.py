"""The monitor: samples the engine's metrics for the gauges, the log and a Pushgateway.

The rules for the bottleneck are in bottleneck.py.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from urllib.parse import quote

import httpx

from handler.engine.awake_clock import AwakeTimeout
from handler.engine.interface import EngineRequest
from handler.engine.response import send_request
from handler.engine.runtime import EngineRuntime
from handler.errors import InvalidSetting, RequestError
from handler.metrics.bottleneck import (
    KINDS,
    BottleneckLog,
    find_bottleneck,
    speculation_pays,
)
from handler.metrics.cost import CostMeter
from handler.metrics.engine_stats import EngineStats, StatsWindow, parse_stats, window_between
from handler.metrics.prometheus import Gauges, WorkerMetrics
from handler.startup.timings import StartupTimings
from handler.supervisor import Supervisor

log = logging.getLogger(__name__)

SAMPLE_INTERVAL_SECONDS = 10.0
WINDOW_SECONDS = 60.0  # "in the last minute" in the metrics' help
PUSH_TIMEOUT_SECONDS = 5.0


class Monitor:
    """Samples one engine on a thread of its own; use as `with Monitor(…)`.

    Args:
        runtime: the running engine.
        timings: the stages of the start.
        max_running: requests that the engine can run at once.
        cost: what the worker's time costs.
        pushgateway: receives the metrics; leaving the context deletes them there.
        supervisor: watches the monitor's thread.
        sample_interval_seconds: the time between two samples.

    Attributes:
        metrics: the worker's own metrics.
        cost: what the worker's time costs.
    """

    def __init__(
        self,
        runtime: EngineRuntime,
        timings: StartupTimings,
        max_running: int,
        cost: CostMeter,
        pushgateway: "Pushgateway | None" = None,
        supervisor: Supervisor | None = None,
        sample_interval_seconds: float = SAMPLE_INTERVAL_SECONDS,
    ) -> None:
        self._runtime = runtime
        self._max_running = max_running
        self.cost = cost
        self._pushgateway = pushgateway
        self.metrics = WorkerMetrics(timings, runtime.pacer, self._gauges)
        self._samples: deque[tuple[float, EngineStats]] = deque()  # monotonic seconds, stats
        self._lock = threading.Lock()
        self._bottleneck_log = BottleneckLog()
        self._stop_requested = threading.Event()
        self._interval_seconds = sample_interval_seconds
        self._thread = (supervisor or Supervisor()).thread("monitor", self._main)

    def __enter__(self) -> "Monitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_requested.set()
        self._thread.join(PUSH_TIMEOUT_SECONDS)
        if self._pushgateway is not None:
            self._pushgateway.delete()

    async def exposition(self) -> str:
        """Return the engine's metrics and the worker's own; may be called on any event loop."""
        return self.with_worker_metrics(await self._engine_exposition())

    def with_worker_metrics(self, engine_exposition: str) -> str:
        """Return the given engine metrics with the worker's own added."""
        self._add_sample(engine_exposition)
        return self.metrics.exposition(engine_exposition)

    async def _engine_exposition(self) -> str:
        try:
            async with send_request(self._runtime, EngineRequest("GET", "/metrics")) as response:
                return (await response.read_all()).decode()
        except RequestError:
            return ""  # the engine is dead; the worker's own metrics are still valid

    def _add_sample(self, engine_exposition: str) -> None:
        if not engine_exposition:
            return
        now, stats = time.monotonic(), parse_stats(engine_exposition)
        with self._lock:
            samples = self._samples
            if len(samples) > 1 and now - samples[-2][0] < SAMPLE_INTERVAL_SECONDS:
                samples.pop()  # a scrape between two samples replaces the newest one
            samples.append((now, stats))
            while len(samples) > 2 and now - samples[1][0] >= WINDOW_SECONDS:
                samples.popleft()

    def _latest(self) -> tuple[EngineStats, StatsWindow] | None:
        with self._lock:
            if not self._samples:
                return None
            (_, first), (_, last) = self._samples[0], self._samples[-1]
        return last, window_between(first, last)

    def _gauges(self) -> Gauges:
        running = self._runtime.running
        is_alive = running is not None and not self._runtime.dead and running.alive()
        gauges: dict[str, float | Mapping[str, float]] = {"engine_up": float(is_alive)}
        if self._runtime.lowered:
            gauges["lowered_setting"] = dict(self._runtime.lowered)
        gauges |= self.cost.gauges()
        if (latest := self._latest()) is None:
            return gauges
        stats, window = latest
        bottleneck = find_bottleneck(stats, window, self._max_running)
        values = {
            "kv_cache_usage_ratio": stats.kv_cache_usage,
            "engine_running_requests": stats.running,
            "engine_waiting_requests": stats.waiting,
            "preemptions_total": stats.preemptions_total,
            "prefix_cache_hit_ratio": window.prefix_hit_ratio,
            "accepted_tokens_per_step": window.accepted_tokens_per_step,
            "acceptance_ratio": window.acceptance_ratio,
            "speculation_pays": speculation_pays(window),
        }
        gauges |= {name: float(value) for name, value in values.items() if value is not None}
        gauges["bottleneck"] = {kind: float(kind == bottleneck.kind) for kind in KINDS}
        return gauges

    # ---- the monitor's thread ----

    def _main(self) -> None:
        with asyncio.Runner() as runner:
            problem = ""
            while not self._stop_requested.wait(self._interval_seconds):
                try:
                    runner.run(self._sample())
                except Exception as error:  # the next sample may succeed
                    if repr(error) != problem:  # a repeated one is logged once
                        log.exception("the monitor failed to take a sample")
                    problem = repr(error)
                else:
                    problem = ""

    async def _sample(self) -> None:
        async with AwakeTimeout(SAMPLE_INTERVAL_SECONDS):
            exposition = await self.exposition()
        if (latest := self._latest()) is not None and not self._runtime.dead:
            stats, window = latest
            bottleneck = find_bottleneck(stats, window, self._max_running)
            for line in self._bottleneck_log.lines(bottleneck, window, time.monotonic()):
                log.info(line)
        if self._pushgateway is not None:
            await self._pushgateway.push(exposition)


class Pushgateway:
    """This worker's group of metrics in a Prometheus Pushgateway.

    Args:
        url: PROMETHEUS_PUSHGATEWAY.
        job, endpoint, worker: the labels of the group.

    Raises:
        InvalidSetting: the URL is not valid.
    """

    def __init__(self, url: str, *, job: str, endpoint: str, worker: str) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise InvalidSetting(
                f"PROMETHEUS_PUSHGATEWAY={url!r} must be a URL such as http://pushgateway:9091."
            )
        labels = {"job": job, "endpoint": endpoint, "worker": worker}
        path = "/".join(f"{name}/{quote(value, safe='')}" for name, value in labels.items())
        self._url = f"{url.rstrip('/')}/metrics/{path}"
        self._logged_problem = ""

    async def push(self, exposition: str) -> None:
        """Replace the worker's metrics in the gateway; log a repeated problem once."""
        problem = ""
        try:
            async with httpx.AsyncClient(timeout=PUSH_TIMEOUT_SECONDS) as client:
                response = await client.put(self._url, content=exposition.encode())
                if response.is_error:
                    problem = f"{response.status_code} {response.text.strip()[:200]}"
        except httpx.HTTPError as error:
            problem = str(error) or repr(error)
        if problem and problem != self._logged_problem:
            log.warning("PROMETHEUS_PUSHGATEWAY does not accept the metrics: %s", problem)
        self._logged_problem = problem

    def delete(self) -> None:
        """Delete the worker's metrics in the gateway."""
        with contextlib.suppress(httpx.HTTPError):
            httpx.delete(self._url, timeout=PUSH_TIMEOUT_SECONDS)
