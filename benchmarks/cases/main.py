"""The worker beside a worker that forwards to a subprocess, and beside the engine alone.

The contenders take turns, so that a slow minute of the machine does not hit one of them only.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks import cold, load
from benchmarks.case import Bench, Case, Measured
from benchmarks.report import Row, Table, Target, at_least, at_most
from benchmarks.workers import BASELINE, WORKER

TOKENS = 128
STREAMS = (1, 16, 64, 192)


def measure(bench: Bench) -> Measured:
    """Start each contender several times, and load it; medians."""
    shared = bench.environment()
    contenders = (BASELINE, WORKER)
    for contender in contenders:
        with bench.serving(shared, contender):
            pass  # it has filled the caches
    starts: dict[str, list[cold.Start]] = {contender.name: [] for contender in contenders}
    loads: dict[str, list[dict[int, load.Load]]] = {contender.name: [] for contender in contenders}
    alone: list[dict[str, dict[str, float]]] = []
    for _ in range(bench.starts):
        for contender in contenders:
            with bench.serving(shared, contender) as endpoint:
                starts[contender.name].append(endpoint.start)
                loads[contender.name].append(
                    {
                        streams: load.measure(
                            endpoint.platform,
                            endpoint.pid,
                            streams,
                            max(streams, 2) * bench.rounds,
                            TOKENS,
                        )
                        for streams in STREAMS
                    }
                )
        alone.append(_engine_alone(shared, bench.rounds))
    made: dict[str, Any] = {
        contender.name: {
            "start": asdict(cold.median(starts[contender.name])),
            "load": {
                streams: asdict(load.median([run[streams] for run in loads[contender.name]]))
                for streams in STREAMS
            },
        }
        for contender in contenders
    }
    made["engine"] = {"load": {s: _medians([run[str(s)] for run in alone]) for s in STREAMS}}
    return made


def tables(measured: Measured) -> Sequence[Table]:
    """Return the worker against the baseline, and against the engine."""
    baseline, worker, engine = (measured[name] for name in ("baseline", "worker", "engine"))

    def row(what: str, streams: str, figure: str, target: Target) -> Row:
        return Row(what, baseline["load"][streams][figure], worker["load"][streams][figure], target)

    seconds = (baseline["start"]["seconds"], worker["start"]["seconds"])
    beside = [
        row("tokens/s at 192 streams", "192", "tokens_per_second", at_least(1.8)),
        row("tokens/s at 64 streams", "64", "tokens_per_second", at_least(1.2)),
        row("tokens/s at 16 streams", "16", "tokens_per_second", at_least(1.2)),
        row("time to first token, p50, 192 streams (s)", "192", "first_token_p50", at_most(0.6)),
        row("time to first token, p99, 192 streams (s)", "192", "first_token_p99", at_most(0.6)),
        row("time to first token, one stream (s)", "1", "first_token_p50", at_most(1.0)),
        row("total, one stream (s)", "1", "total_p50", at_most(1.0)),
        row("CPU per token at 192 streams (ms)", "192", "cpu_ms_per_token", at_most(0.5)),
        Row("process start → first token, caches warm (s)", *seconds, at_most(0.45)),
    ]
    figure = "tokens_per_second"
    alone = [
        Row(
            f"tokens/s at {streams} streams",
            engine["load"][streams][figure],
            worker["load"][streams][figure],
            at_least(0.8) if streams == "192" else None,
        )
        for streams in map(str, reversed(STREAMS))
    ]
    return Table("baseline", "worker", beside), Table("engine alone", "worker", alone)


def _engine_alone(shared: Mapping[str, str], rounds: int) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.direct"]
    command += [str(number) for number in (rounds, TOKENS, *STREAMS)]
    done = subprocess.run(command, env=shared, capture_output=True, text=True, check=True)
    made: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return made


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(run[name] for run in runs) for name in runs[0]}


CASE = Case("main", "This worker beside a worker that forwards to a subprocess", measure, tables)
