"""The traffic of running workers, from a Prometheus that scrapes them."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from builder.errors import InvalidArgument
from builder.traffic.day import DAY_SECONDS, Lengths, Segment, Traffic
from handler.errors import redact

STEP_SECONDS = 300
TIMEOUT_SECONDS = 30.0
# Each line of a batch is a request of its own, and lists of models and unknown routes cost nothing.
CHOSEN = 'outcome=~"ok|failed|timeout|rejected",route!~"batch|/v1/models.*|[?]"'
REQUESTS = f"sum(rate(llm_worker_requests_total{{{CHOSEN}}}[5m]))"
# vLLM and SGLang have histograms of both under these names.
HISTOGRAMS = {
    "prompt": ("vllm:request_prompt_tokens", "sglang:prompt_tokens_histogram"),
    "answer": ("vllm:request_generation_tokens", "sglang:generation_tokens_histogram"),
}
COUNTERS = {"prompt": "prompt", "answer": "completion"}  # `kind` of llm_worker_tokens_total


class Prometheus:
    """A Prometheus server; use as `with Prometheus(…)`.

    Args:
        url: its address, without /api.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._shown = redact(self._url)  # without a password
        self._http = httpx.Client(timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> "Prometheus":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def traffic(self) -> Traffic:
        """Return the requests of the last 24 hours, at the times of day (UTC) that they came.

        Raises:
            InvalidArgument: Prometheus does not answer, or has no requests.
        """
        end = time.time() // STEP_SECONDS * STEP_SECONDS
        start = end - DAY_SECONDS + STEP_SECONDS
        found = self._query(
            "query_range", query=REQUESTS, start=str(start), end=str(end), step=str(STEP_SECONDS)
        )
        rates = {float(at): float(rate) for series in found for at, rate in series["values"]}
        if not any(rates.values()):
            raise InvalidArgument(f"--traffic {self._shown}: there were no requests in 24 hours.")
        segments = []
        for at in sorted(rates, key=lambda each: (each - STEP_SECONDS) % DAY_SECONDS):
            begin = (at - STEP_SECONDS) % DAY_SECONDS
            segments.append(Segment(begin, begin + STEP_SECONDS, rates[at], rates[at]))
        return Traffic(f"{self._shown}, the last 24 hours", _without_gaps(segments))

    def lengths(self, of: str) -> Lengths | None:
        """Return the lengths of `prompt` or `answer` in the last 24 hours, None without any."""
        for histogram in HISTOGRAMS[of]:
            name = f"increase({histogram}_bucket[24h])"
            found = self._query("query", query=f"sum by (le) ({name})")
            counts = {float(each["metric"]["le"]): float(each["value"][1]) for each in found}
            if lengths := lengths_of_buckets(counts):
                return lengths
        tokens = f'increase(llm_worker_tokens_total{{kind="{COUNTERS[of]}"}}[24h])'
        ratio = f'sum({tokens}) / sum(increase(llm_worker_requests_total{{outcome="ok"}}[24h]))'
        found = self._query("query", query=ratio)
        mean = float(found[0]["value"][1]) if found else math.nan
        return Lengths(mean) if math.isfinite(mean) and mean else None

    def _query(self, route: str, **parameters: str) -> Sequence[Mapping[str, Any]]:
        try:
            answer = self._http.get(f"{self._url}/api/v1/{route}", params=parameters)
            answer.raise_for_status()
            result: Sequence[Mapping[str, Any]] = answer.json()["data"]["result"]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise InvalidArgument(
                f"--traffic {self._shown} is no Prometheus that answers: "
                f"{redact(str(error) or repr(error))}."
            ) from error
        return result


def lengths_of_buckets(counts: Mapping[float, float]) -> Lengths | None:
    """Return the lengths of a histogram, each in the middle of its bucket.

    Args:
        counts: requests with at most so many tokens, by these numbers; the largest is infinite.
    """
    total = max(counts.values(), default=0.0)
    if not total:
        return None
    mean = square = below = before = 0.0
    for limit in sorted(counts):
        middle = before if math.isinf(limit) else (before + limit) / 2
        share = (counts[limit] - below) / total
        mean, square = mean + share * middle, square + share * middle**2
        before, below = limit, counts[limit]
    if not mean:
        return None
    return Lengths(mean, math.sqrt(max(0.0, square - mean**2)) / mean)


def _without_gaps(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Return the segments and, where Prometheus has no figures, others without requests."""
    whole: list[Segment] = []
    second = 0.0
    for segment in segments:
        if segment.begin > second:
            whole.append(Segment(second, segment.begin, 0.0, 0.0))
        whole.append(segment)
        second = segment.end
    if second < DAY_SECONDS:
        whole.append(Segment(second, DAY_SECONDS, 0.0, 0.0))
    return tuple(whole)
