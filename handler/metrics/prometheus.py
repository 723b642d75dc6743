"""The worker's own Prometheus metrics, added to the engine's; docs/metrics.md lists them.

prometheus_client decides at its import whether several processes share it. SGLang's do, and set
that at its start: nothing of this module may be called before the engine is up.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from handler.engine.pacing import Pacer
from handler.metrics.request_log import RequestObserver, RequestRecord
from handler.startup.timings import StartupTimings

PREFIX = "llm_worker_"
SHORT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LONG_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

PostOutcome = Literal["taken", "again", "lost"]
"""Of a POST to the platform: accepted, sent again, given up."""
Gauges = Mapping[str, "float | Mapping[str, float]"]
"""A name → its value, or its values by the value of its one label."""

GAUGES = {
    "requests_active": ("Requests that are open", ()),
    "streams_active": ("Streams that are open", ()),
    "start_seconds": ("Seconds that a stage of the start took", ("stage",)),
    "start_offset_seconds": ("Seconds from the process's start to a stage's begin", ("stage",)),
    "engine_up": ("Whether the engine lives", ()),
    "kv_cache_usage_ratio": ("Share of the KV cache that is in use", ()),
    "engine_running_requests": ("Requests in the engine's batch", ()),
    "engine_waiting_requests": ("Requests that wait in the engine", ()),
    "prefix_cache_hit_ratio": ("Share of prompt tokens found in the KV cache, of late", ()),
    "accepted_tokens_per_step": ("Drafted tokens that a step accepts, of late", ()),
    "acceptance_ratio": ("Share of drafted tokens that are accepted, of late", ()),
    "preemptions_total": ("Requests that lost their KV cache to others", ()),
    "bottleneck": ("1 for what bounds the worker now", ("kind",)),
    "speculation_pays": ("Whether drafting gains more than it costs, of late", ()),
}


class WorkerMetrics(RequestObserver):
    """What the worker counts.

    Args:
        timings: of the start.
        pacer: knows how many streams are open.
        engine_gauges: returns the values of those `GAUGES` that describe the engine.
    """

    def __init__(
        self, timings: StartupTimings, pacer: Pacer, engine_gauges: Callable[[], Gauges]
    ) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._timings, self._pacer, self._engine_gauges = timings, pacer, engine_gauges
        self._active_requests = 0
        self._registry = registry = CollectorRegistry()
        registry.register(_GaugeCollector(self._gauges))

        def counter(name: str, help_text: str, *labels: str) -> Any:
            return Counter(PREFIX + name, help_text, labels, registry=registry)

        def histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Any:
            return Histogram(PREFIX + name, help_text, labels, registry=registry, buckets=buckets)

        self._requests = counter("requests", "Requests that are over", "route", "outcome")
        self._request_seconds = histogram(
            "request_seconds", "From a request's arrival to its end", LONG_BUCKETS, "route"
        )
        self._queue_seconds = histogram(
            "queue_seconds", "From a request's arrival to the engine", SHORT_BUCKETS
        )
        self._time_to_first_token = histogram(
            "time_to_first_token_seconds",
            "From a stream's arrival to the first of its output",
            SHORT_BUCKETS,
        )
        self._inter_token_latency = histogram(
            "inter_token_seconds", "Between two tokens of a stream, on its average", TOKEN_BUCKETS
        )
        self._tokens = counter("tokens", "Tokens read, written and found in the KV cache", "kind")
        self._posts = counter("posts", "POSTs of results to the platform", "outcome")
        self._post_seconds = histogram("post_seconds", "From a POST to its answer", SHORT_BUCKETS)
        self._post_bytes = counter("post_bytes", "Bytes of the POSTs' bodies")

    def began(self, record: RequestRecord) -> None:
        self._active_requests += 1

    def ended(self, record: RequestRecord) -> None:
        self._active_requests -= 1
        self._requests.labels(record.route, record.outcome).inc()
        self._request_seconds.labels(record.route).observe(record.seconds)
        for histogram, seconds in (
            (self._queue_seconds, record.queue_seconds),
            (self._time_to_first_token, record.time_to_first_token_seconds),
            (self._inter_token_latency, record.inter_token_latency_seconds),
        ):
            if seconds is not None:
                histogram.observe(seconds)
        usage = record.usage
        self._tokens.labels("prompt").inc(usage.prompt)
        self._tokens.labels("completion").inc(usage.completion)
        self._tokens.labels("cached").inc(usage.cached)

    def posted(self, outcome: PostOutcome, seconds: float, size_bytes: int) -> None:
        """Count a POST to the platform."""
        self._posts.labels(outcome).inc()
        self._post_seconds.observe(seconds)
        self._post_bytes.inc(size_bytes)

    def exposition(self, engine_exposition: str) -> str:
        """Return the engine's exposition with the worker's own metrics behind it."""
        from prometheus_client import generate_latest

        own = generate_latest(self._registry).decode()
        return "\n".join([*_without_own(engine_exposition.splitlines()), own])

    def _gauges(self) -> Gauges:
        return {
            "requests_active": self._active_requests,
            "streams_active": self._pacer.streams,
            "start_seconds": {stage.name: stage.seconds for stage in self._timings},
            "start_offset_seconds": {
                stage.name: stage.began - self._timings.began for stage in self._timings
            },
            **self._engine_gauges(),
        }


class _GaugeCollector:
    """Gauges whose values are read when they are scraped."""

    def __init__(self, values: Callable[[], Gauges]) -> None:
        self._values = values

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        values = self._values()
        for name, (help_text, labels) in GAUGES.items():
            if name not in values:
                continue
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            metric = family(PREFIX + name, help_text, labels=labels)
            value = values[name]
            for label, number in value.items() if isinstance(value, Mapping) else [(None, value)]:
                metric.add_metric([label] if label is not None else [], number)
            yield metric


def _without_own(lines: Iterable[str]) -> Iterator[str]:
    """Drop this process's metrics, which SGLang's shared folder of metrics holds as well."""
    for line in lines:
        name = line.split(" ", 3)[2] if line.startswith(("# HELP ", "# TYPE ")) else line
        if line and not name.startswith(PREFIX):
            yield line
