"""How the engine is, read from its own metrics now and then: gauges, a verdict in the log, a push.

The engine's exposition is the source; this module knows no engine. The verdict's rules stand in
bottleneck.py.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from urllib.parse import quote

import httpx

from handler.engine.interface import EngineRequest
from handler.engine.response import ask
from handler.engine.runtime import EngineRuntime
from handler.errors import InvalidSetting, RequestError
from handler.metrics.bottleneck import KINDS, Announcer, judge, speculation_pays
from handler.metrics.engine_stats import EngineStats, StatsWindow, read, window
from handler.metrics.prometheus import Gauges, WorkerMetrics
from handler.settings import Settings
from handler.startup.timings import StartupTimings

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 10.0
SPAN_SECONDS = 60.0  # what "of late" means
PUSH_TIMEOUT_SECONDS = 5.0


class Monitor:
    """Samples one engine, on a thread of its own.

    Args:
        runtime: the running engine.
        stages: of the start.
        max_running: requests that can run at once.
        push: where to push to, None for nowhere.

    Attributes:
        metrics: what the worker counts.

    Use as `with Monitor(…)`; leaving it takes back what was pushed.
    """

    def __init__(
        self,
        runtime: EngineRuntime,
        stages: StartupTimings,
        max_running: int,
        push: "PushTarget | None" = None,
    ) -> None:
        self._runtime = runtime
        self._max_running = max_running
        self._push = push
        self.metrics = WorkerMetrics(stages, runtime.pacer, self._gauges)
        self._samples: deque[tuple[float, EngineStats]] = deque()
        self._lock = threading.Lock()
        self._announcer = Announcer()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._main, name="monitor", daemon=True)

    def __enter__(self) -> "Monitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PUSH_TIMEOUT_SECONDS)
        if self._push is not None:
            self._push.delete()

    async def exposition(self) -> str:
        """Return the engine's metrics and the worker's own; from any loop."""
        return self.combined(await self._engines())

    def combined(self, engines: str) -> str:
        """Return the same for an exposition of the engine that is here already."""
        self._note(engines)
        return self.metrics.exposition(engines)

    async def _engines(self) -> str:
        try:
            async with ask(self._runtime, EngineRequest("GET", "/metrics")) as response:
                return (await response.read_all()).decode()
        except RequestError:
            return ""  # the engine is gone; what the worker has counted is not

    def _note(self, engines: str) -> None:
        if not engines:
            return
        now, reading = time.monotonic(), read(engines)
        with self._lock:
            if len(self._samples) > 1 and now - self._samples[-2][0] < SAMPLE_SECONDS:
                self._samples.pop()  # a scrape between two samples takes the newest one's place
            self._samples.append((now, reading))
            while len(self._samples) > 2 and now - self._samples[1][0] >= SPAN_SECONDS:
                self._samples.popleft()

    def _latest(self) -> tuple[EngineStats, StatsWindow] | None:
        with self._lock:
            if not self._samples:
                return None
            (began, first), (ended, last) = self._samples[0], self._samples[-1]
        return last, window(first, last, ended - began)

    def _gauges(self) -> Gauges:
        running = self._runtime.running
        lives = running is not None and not self._runtime.dead and running.alive()
        gauges: dict[str, float | dict[str, float]] = {"engine_up": float(lives)}
        if (latest := self._latest()) is None:
            return gauges
        reading, late = latest
        verdict = judge(reading, late, self._max_running)
        known = {
            "kv_cache_usage_ratio": reading.kv_cache_usage,
            "engine_running_requests": reading.running,
            "engine_waiting_requests": reading.waiting,
            "preemptions_total": reading.preemptions_total,
            "prefix_cache_hit_ratio": late.prefix_hit_ratio,
            "accepted_tokens_per_step": late.accepted_tokens_per_step,
            "acceptance_ratio": late.acceptance_ratio,
            "speculation_pays": speculation_pays(late),
        }
        gauges |= {name: float(value) for name, value in known.items() if value is not None}
        gauges["bottleneck"] = {kind: float(kind == verdict.kind) for kind in KINDS}
        return gauges

    # ---- its thread ----

    def _main(self) -> None:
        with asyncio.Runner() as runner:
            while not self._over.wait(SAMPLE_SECONDS):
                try:
                    runner.run(self._sample())
                except Exception:  # the worker serves without a monitor as well
                    log.exception("the monitor failed once")

    async def _sample(self) -> None:
        async with asyncio.timeout(SAMPLE_SECONDS):
            text = await self.exposition()
        if (latest := self._latest()) is not None and not self._runtime.dead:
            verdict = judge(*latest, self._max_running)
            for line in self._announcer.lines(verdict, latest[1], time.monotonic()):
                log.info(line)
        if self._push is not None:
            await self._push.put(text)


def push_target(settings: Settings) -> "PushTarget | None":
    """Return where the settings say that metrics are pushed to.

    Raises:
        InvalidSetting: it is no URL.
    """
    if settings.pushgateway is None:
        return None
    try:
        url = httpx.URL(settings.pushgateway)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidSetting(
            f"PROMETHEUS_PUSHGATEWAY={settings.pushgateway!r} should be a URL such as "
            "http://pushgateway:9091."
        )
    labels = {"job": settings.push_job, "endpoint": settings.endpoint_id or "none"}
    return PushTarget(settings.pushgateway, labels | {"worker": settings.worker_id or "none"})


class PushTarget:
    """A Pushgateway, and the group of this worker in it.

    Args:
        url: the gateway's.
        labels: of the group, `job` the first of them.
    """

    def __init__(self, url: str, labels: dict[str, str]) -> None:
        path = "/".join(f"{name}/{quote(value, safe='')}" for name, value in labels.items())
        self._url = f"{url.rstrip('/')}/metrics/{path}"
        self._problem = ""

    async def put(self, exposition: str) -> None:
        """Replace what the gateway has of this worker; say once what is wrong with it."""
        problem = ""
        try:
            async with httpx.AsyncClient(timeout=PUSH_TIMEOUT_SECONDS) as client:
                answer = await client.put(self._url, content=exposition.encode())
                if answer.is_error:
                    problem = f"{answer.status_code} {answer.text.strip()[:200]}"
        except httpx.HTTPError as error:
            problem = str(error) or repr(error)
        if problem and problem != self._problem:
            log.warning("PROMETHEUS_PUSHGATEWAY does not take the metrics: %s", problem)
        self._problem = problem

    def delete(self) -> None:
        """Take it back: the worker ends."""
        with contextlib.suppress(httpx.HTTPError):
            httpx.delete(self._url, timeout=PUSH_TIMEOUT_SECONDS)
