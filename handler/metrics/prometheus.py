"""The worker's own Prometheus metrics, added to the engine's; docs/metrics.md lists them.

prometheus_client chooses at its import between one process and several. SGLang sets the variable
for that at its own start, so call nothing in this module before the engine is up.
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
"""The outcome of a POST to the platform: accepted, retried, given up."""
Gauges = Mapping[str, "float | Mapping[str, float]"]
"""The value of each gauge, or its values by label."""

GAUGES = {
    "requests_active": ("Open requests", ()),
    "streams_active": ("Open streams", ()),
    "start_seconds": ("Duration of a stage of the start, in seconds", ("stage",)),
    "start_offset_seconds": (
        "Seconds from the start of the process to the begin of a stage",
        ("stage",),
    ),
    "lowered_setting": (
        "Value of a setting that the worker has lowered to fit the GPU's memory",
        ("setting",),
    ),
    "state_seconds_total": (
        "Seconds that the worker has spent on its start, with requests in the engine, and idle",
        ("state",),
    ),
    "dollars_total": ("The same seconds in dollars", ("state",)),
    "dollars_per_second": ("Price of the worker, in dollars per second", ()),
    "request_dollars_per_second": (
        "A running request's share of the price, in dollars per second",
        (),
    ),
    "start_failed": (
        "1 if the start has failed, by its exit code; all other metrics are absent then",
        ("exit_code",),
    ),
    "engine_up": ("1 if the engine is alive", ()),
    "kv_cache_usage_ratio": ("Used share of the KV cache", ()),
    "engine_running_requests": ("Requests in the engine's batch", ()),
    "engine_waiting_requests": ("Requests in the engine's queue", ()),
    "prefix_cache_hit_ratio": (
        "Share of prompt tokens found in the prefix cache, in the last minute",
        (),
    ),
    "accepted_tokens_per_step": ("Accepted draft tokens per step, in the last minute", ()),
    "acceptance_ratio": ("Share of draft tokens that were accepted, in the last minute", ()),
    "preemptions_total": ("Requests that lost their KV cache to others", ()),
    "bottleneck": ("1 for the current bottleneck", ("kind",)),
    "speculation_pays": ("1 if drafting saves more time than it costs, in the last minute", ()),
}


class WorkerMetrics(RequestObserver):
    """The worker's own metrics.

    Args:
        timings: the stages of the start.
        pacer: has the number of open streams.
        engine_gauges: returns the values of the engine's `GAUGES`.
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

        self._requests = counter("requests", "Finished requests", "route", "outcome")
        self._request_seconds = histogram(
            "request_seconds", "From the arrival of a request to its end", LONG_BUCKETS, "route"
        )
        self._queue_seconds = histogram(
            "queue_seconds",
            "From the arrival of a request until it is sent to the engine",
            SHORT_BUCKETS,
        )
        self._time_to_first_token = histogram(
            "time_to_first_token_seconds",
            "From the arrival of a streamed request to its first output",
            SHORT_BUCKETS,
        )
        self._inter_token_latency = histogram(
            "inter_token_seconds", "Average time between two tokens of a stream", TOKEN_BUCKETS
        )
        self._tokens = counter(
            "tokens",
            "Prompt tokens, generated tokens, and prompt tokens found in the prefix cache",
            "kind",
        )
        self._posts = counter("posts", "POSTs of results to the platform", "outcome")
        self._post_seconds = histogram("post_seconds", "From a POST to its response", SHORT_BUCKETS)
        self._post_bytes = counter("post_bytes", "Body bytes of the POSTs")

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
        """Return the engine's exposition with the worker's own metrics at its end."""
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


def failed_start_exposition(exit_code: int) -> str:
    """Return the metrics of a worker whose start has failed with this exit code."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_GaugeCollector(lambda: {"start_failed": {str(exit_code): 1}}))
    return generate_latest(registry).decode()


class _GaugeCollector:
    """A collector that reads the gauges at each scrape."""

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
    """Drop the worker's own metrics, which SGLang's multi-process exposition also has."""
    for line in lines:
        name = line.split(" ", 3)[2] if line.startswith(("# HELP ", "# TYPE ")) else line
        if line and not name.startswith(PREFIX):
            yield line
