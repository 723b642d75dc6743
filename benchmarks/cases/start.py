"""Cold starts: the worker with a forked engine, with a spawned one, and the baseline.

They take turns, so that a slow minute of the machine does not hit one of them only. What is
compared is the time from the start of the process to the first token of a job that was waiting.
"""

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.queue_worker import BASELINE, WORKER, Start, median_start
from benchmarks.report import Row, Table, Target
from handler.startup.timings import StartupStage, StartupTimings

BASELINE_TARGET = Target(0.4, is_maximum=True)
SPAWN_TARGET = Target(0.6, is_maximum=True)
BESIDE = ("SDK", "caches")  # stages of the worker that run beside others
LABEL = "process start → first token, caches warm (s)"
SPAWN = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
SIDES = {"baseline": (BASELINE, {}), "spawn": (WORKER, SPAWN), "fork": (WORKER, {})}


def measure(bench: Bench) -> dict[str, Any]:
    environ = bench.environment()
    starts: dict[str, list[Start]] = {name: [] for name in SIDES}
    load = [os.getloadavg()[0]]
    for turn in range(bench.options.starts + 1):
        for name, (worker, variables) in SIDES.items():
            with bench.queue_worker({**environ, **variables}, worker) as running:
                if turn:  # the first one fills the caches
                    starts[name].append(running.start)
        load.append(os.getloadavg()[0])
    return {
        "load_average": load,
        **{
            name: {
                "seconds": [start.seconds for start in runs],
                "median": asdict(median_start(runs)),
            }
            for name, runs in starts.items()
        },
    }


def tables(measured: Any) -> Sequence[Table]:
    baseline, spawn, fork = (measured[name]["seconds"] for name in SIDES)
    load = ", ".join(f"{value:.1f}" for value in measured["load_average"])
    note = f"Load average before each turn and after the last: {load}.\n\n" + _stages(
        measured["fork"]["median"]
    )
    return [
        Table("baseline", "worker", [_row(LABEL, baseline, fork, BASELINE_TARGET)]),
        Table("spawn", "fork", [_row(LABEL, spawn, fork, SPAWN_TARGET)], note),
    ]


def _row(label: str, base: Sequence[float], other: Sequence[float], target: Target) -> Row:
    """Medians of both sides."""
    return Row(label, statistics.median(base), statistics.median(other), target)


def _stages(start: Mapping[str, Any]) -> str:
    """What the forked start did one after the other, as a table: it adds up to the total."""
    timings = StartupTimings(0.0)
    for stage in start["stages"]:
        name, began = stage["name"], stage["begin_seconds"]
        timings.add(StartupStage(name, began, stage["seconds"], beside=name in BESIDE))
    steps = timings.sequence()
    rows = [f"| {step.name} | {step.began:.2f} | {step.seconds:.2f} |" for step in steps]
    total = sum(step.seconds for step in steps)
    rows.append(f"| **sum** | | **{total:.2f}** |")
    return "\n".join(
        ["| stage of a forked start | from (s) | took (s) |", "| --- " * 3 + "|", *rows]
    )


CASE = Case(
    "start", "Cold starts: a forked engine, a spawned one, and the baseline", measure, tables
)
