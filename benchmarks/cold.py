"""A cold start, from the process's start to the first token of a job that was waiting.

What happens inside is known from what each worker says: the baseline prints two moments, this
worker has its stages among its metrics. Both may be silent; then only what the platform sees is
known, which is the first poll and the first chunk.
"""

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.metrics import by_label


@dataclass(frozen=True)
class Stage:
    """A part of the start, in seconds; `begin_seconds` counts from the process's start."""

    name: str
    begin_seconds: float
    seconds: float


@dataclass(frozen=True)
class Start:
    """One start: the seconds until the first token, and its stages, which may overlap."""

    seconds: float
    stages: tuple[Stage, ...]


def seen_stages(began_at: float, polled_at: float, first_token_at: float) -> tuple[Stage, ...]:
    """Return what the platform saw; the arguments are moments of one clock."""
    ready = polled_at - began_at
    return (
        Stage("until the first poll", 0.0, ready),
        Stage("first job", ready, first_token_at - polled_at),
    )


def exported_stages(exposition: str) -> tuple[Stage, ...]:
    """Return the stages among this worker's metrics."""
    lengths = by_label(exposition, "llm_worker_start_seconds", "stage")
    begins = by_label(exposition, "llm_worker_start_offset_seconds", "stage")
    return tuple(Stage(name, begins[name], lengths[name]) for name in begins if name in lengths)


def printed_stages(log: str, began_at: float) -> tuple[Stage, ...]:
    """Return the stages that the baseline prints moments of."""
    found = re.search(r'^\{"server_started_at".*\}$', log, re.MULTILINE)
    if found is None:
        return ()
    moments = json.loads(found[0])
    server, healthy = moments["server_started_at"] - began_at, moments["healthy_at"] - began_at
    return (
        Stage("imports of the worker", 0.0, server),
        Stage("server, until it is found healthy", server, healthy - server),
    )


def median(starts: Sequence[Start]) -> Start:
    """Return the start in the middle, by its length; the shorter of two."""
    middle = statistics.median_low([start.seconds for start in starts])
    return next(start for start in starts if start.seconds == middle)
