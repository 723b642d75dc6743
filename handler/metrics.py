"""The worker's own metrics, in the exposition that the engine's `/metrics` gives.

prometheus_client decides at its import whether several processes share it. SGLang's do, and says so
when it starts: nothing of this module may be called before the engine is up.
"""

from handler.stages import Stages


class StartMetrics:
    """What the start was made of, as gauges with a label `stage`."""

    def __init__(self) -> None:
        from prometheus_client import Gauge

        self._seconds = Gauge(
            "llm_worker_start_seconds",
            "Seconds that a stage of the start took",
            ["stage"],
            multiprocess_mode="mostrecent",
        )
        self._offset = Gauge(
            "llm_worker_start_offset_seconds",
            "Seconds from the process's start to a stage's begin",
            ["stage"],
            multiprocess_mode="mostrecent",
        )

    def show(self, stages: Stages) -> None:
        """Set the gauges."""
        for stage in stages:
            self._seconds.labels(stage.name).set(stage.seconds)
            self._offset.labels(stage.name).set(stage.began - stages.began)
