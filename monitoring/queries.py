"""Expressions of the workers that are chosen in the dashboard."""

from collections.abc import Sequence

from monitoring.panels import Queries

VARIABLES = ("job", "endpoint", "worker")
CHOSEN = ",".join(f'{name}=~"${name}"' for name in VARIABLES)


def rate(name: str, *by: str, **labels: str) -> str:
    """Return how much a counter grows a second, by some of its labels."""
    return f"sum{_by(by)} (rate({series(name, **labels)}[$__rate_interval]))"


def series(name: str, **labels: str) -> str:
    """Return the selector of a metric of the workers that are chosen."""
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{CHOSEN}{more}}}"


def quantiles(name: str, *names: str) -> Queries:
    """Return quantiles ("p50") of a histogram."""
    buckets = rate(f"{name}_bucket", "le")
    return [(f"histogram_quantile(0.{quantile[1:]}, {buckets})", quantile) for quantile in names]


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
