"""How both workers bear a platform that takes its time for each POST."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import load
from benchmarks.case import Bench, Case, Measured
from benchmarks.report import Row, Table
from benchmarks.workers import BASELINE, WORKER

DELAYS_MS = (0, 20, 50, 150)
STREAMS = (64, 192)
TOKENS = 128


def measure(bench: Bench) -> Measured:
    """Change the delay below a running worker."""
    shared = bench.environment()
    made: dict[str, Any] = {}
    for contender in (BASELINE, WORKER):
        with bench.serving(shared, contender) as endpoint:
            platform = endpoint.platform
            loads: dict[int, dict[int, Any]] = {}
            for delay in DELAYS_MS:
                platform.post_delay_seconds = delay / 1000
                loads[delay] = {
                    streams: asdict(
                        load.measure(
                            platform, endpoint.pid, streams, streams * bench.rounds, TOKENS
                        )
                    )
                    for streams in STREAMS
                }
            made[contender.name] = loads
    return made


def tables(measured: Measured) -> Sequence[Table]:
    """Return tokens per second and time to first token at each delay."""
    figures = {
        "tokens_per_second": "tokens/s",
        "first_token_p50": "time to first token, p50 (s)",
        "posts_per_job": "POSTs per job",
    }
    rows = [
        Row(
            f"{what}, {streams} streams, {delay} ms",
            measured["baseline"][str(delay)][str(streams)][figure],
            measured["worker"][str(delay)][str(streams)][figure],
        )
        for figure, what in figures.items()
        for streams in STREAMS
        for delay in DELAYS_MS
    ]
    return [Table("baseline", "worker", rows)]


CASE = Case("delays", "The platform takes 0 to 150 ms to answer a POST", measure, tables)
