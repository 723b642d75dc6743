"""What a Prometheus has recorded, asked through its HTTP API.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from dataclasses import dataclass
from typing import Any

import httpx

TIMEOUT_SECONDS = 10.0
ALL = ".*"


@dataclass(frozen=True)
class Line:
    """One series: its labels, and its values at some times, in seconds since the epoch."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]

    def named(self, legend: str) -> str:
        """Return its name as Grafana makes it of a legend such as `{{stage}}`."""
        for label, value in self.labels.items():
            legend = legend.replace("{{" + label + "}}", value)
        return legend


class Prometheus:
    """A Prometheus.

    Args:
        url: where it answers.

    Raises:
        httpx.HTTPError: of each method, where it does not.
        QueryError: of each method, where it says what is wrong.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def query(self, expression: str, at: float | None = None) -> list[Line]:
        """Return each series' value at a time, of now if there is none."""
        asked: dict[str, str | float] = {"query": expression}
        if at is not None:
            asked["time"] = at
        result = self.get("query", **asked)["result"]
        return [_line(each["metric"], [each["value"]]) for each in result]

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[Line]:
        """Return each series between two times, with a value every `step` seconds."""
        asked: dict[str, str | float] = {
            "query": expression,
            "start": start,
            "end": end,
            "step": step,
        }
        result = self.get("query_range", **asked)["result"]
        return [_line(each["metric"], each["values"]) for each in result]

    def get(self, what: str, **parameters: str | float) -> Any:
        """Return the data of any call of its API."""
        answer = httpx.get(f"{self._url}/api/v1/{what}", params=parameters, timeout=TIMEOUT_SECONDS)
        body = answer.json()
        if body["status"] != "success":
            raise QueryError(f"{parameters.get('query', what)}: {body['error']}")
        return body["data"]


class QueryError(Exception):
    """Prometheus does not understand what it is asked."""


def filled(expression: str, rate_interval: str, **chosen: str) -> str:
    """Return a panel's expression with Grafana's variables filled in; all of what is not chosen."""
    for name in ("job", "endpoint", "worker"):
        expression = expression.replace(f"${name}", chosen.get(name, ALL))
    return expression.replace("$__rate_interval", rate_interval)


def _line(labels: dict[str, str], values: list[tuple[float, str]]) -> Line:
    return Line(labels, [when for when, _ in values], [float(value) for _, value in values])
