"""At a GPU's pace: the worker, a worker that forwards to a subprocess, and the engine alone.

Beside a simulated GPU a step takes its time and no CPU, so that the processes around the engine
have the cores that they have beside a GPU.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.cases import main
from benchmarks.load import FIGURES
from benchmarks.queue_worker import POST_DELAY_SECONDS
from benchmarks.report import Bound, Bounds, Table, Target, load_rows

LEVELS = (64, 192, 512)
BASELINE_TARGETS = {
    ("output_tokens_per_second", "512"): Target(2.0),
    ("cpu_ms_per_token", "512"): Target(0.33, is_maximum=True),
    ("ttft_p99_seconds", "512"): Target(0.15, is_maximum=True),
}
ENGINE_TARGETS = {
    ("output_tokens_per_second", "64"): Target(0.97),
    ("output_tokens_per_second", "192"): Target(0.97),
    ("output_tokens_per_second", "512"): Target(0.95),
}
# Above the engine alone, without the platform's answer to the first POST, in seconds.
FIRST_TOKEN_BOUNDS = {
    ("ttft_p50_seconds", "192"): 0.06,
    ("ttft_p99_seconds", "192"): 0.15,
    ("ttft_p50_seconds", "512"): 0.15,
}
BOUNDS = {
    ("flush_gap_p99_seconds", "512"): 0.3,
    ("busiest_cpu_ms_per_token", "192"): 0.016,
    ("busiest_cpu_ms_per_token", "512"): 0.016,
}
COMPARED = (
    "output_tokens_per_second",
    "ttft_p50_seconds",
    "ttft_p99_seconds",
    "flush_gap_p99_seconds",
    "cpu_ms_per_token",
    "busiest_cpu_ms_per_token",
)


def measure(bench: Bench) -> dict[str, Any]:
    return main.measure_sides(bench, bench.levels(LEVELS))


def tables(measured: Any) -> Sequence[Table | Bounds]:
    baseline, worker, engine = (measured[name]["load"] for name in ("baseline", "worker", "engine"))
    bounds = [
        Bound(
            f"{FIGURES[figure]}, concurrency {level}, above the engine alone",
            worker[level][figure] - engine[level][figure] - POST_DELAY_SECONDS,
            most,
        )
        for (figure, level), most in FIRST_TOKEN_BOUNDS.items()
    ]
    bounds += [
        Bound(f"{FIGURES[figure]}, concurrency {level}", worker[level][figure], most)
        for (figure, level), most in BOUNDS.items()
    ]
    return [
        Table("engine alone", "worker", load_rows(engine, worker, COMPARED, ENGINE_TARGETS)),
        Bounds("worker", bounds),
        Table("baseline", "worker", load_rows(baseline, worker, COMPARED, BASELINE_TARGETS)),
    ]


CASE = Case("pace", "At a GPU's pace: worker, forwarding worker, engine alone", measure, tables)
