"""The worker compared with a worker that forwards to a subprocess, and with the engine alone.

They take turns, so that a slow minute of the machine does not hit one of them only.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.cases.direct import Variant, run_process
from benchmarks.load import Loads, median_loads
from benchmarks.queue_worker import BASELINE, WORKER, Start, median_start
from benchmarks.report import Row, Table, Target, load_rows

LEVELS = (1, 16, 64, 192)
TOKENS = 128
PROMPT_TOKENS = 21  # of the engine alone, as many as the chat's
START_TARGET = Target(0.45, is_maximum=True)
BASELINE_TARGETS = {
    ("output_tokens_per_second", "192"): Target(1.8),
    ("output_tokens_per_second", "64"): Target(1.2),
    ("output_tokens_per_second", "16"): Target(1.2),
    ("ttft_p50_seconds", "192"): Target(0.6, is_maximum=True),
    ("ttft_p99_seconds", "192"): Target(0.6, is_maximum=True),
    ("ttft_p50_seconds", "1"): Target(1.0, is_maximum=True),
    ("e2e_latency_p50_seconds", "1"): Target(1.0, is_maximum=True),
    ("cpu_ms_per_token", "192"): Target(0.5, is_maximum=True),
}
BASELINE_FIGURES = dict.fromkeys(figure for figure, _ in BASELINE_TARGETS)
ENGINE_TARGETS = {("output_tokens_per_second", "192"): Target(0.8)}
ENGINE_FIGURES = ("output_tokens_per_second",)


def measure(bench: Bench) -> dict[str, Any]:
    return measure_sides(bench, bench.levels(LEVELS))


def measure_sides(bench: Bench, levels: Sequence[int]) -> dict[str, Any]:
    """Measure both workers and the engine alone in turns, at each level of concurrency."""
    options, environ = bench.options, bench.environment()
    workers = (BASELINE, WORKER)
    for worker in workers:
        with bench.queue_worker(environ, worker):
            pass  # this start fills the caches
    starts: dict[str, list[Start]] = {worker.name: [] for worker in workers}
    loads: dict[str, list[Loads]] = {worker.name: [] for worker in workers}
    engine: list[Loads] = []
    for _ in range(options.starts):
        for worker in workers:
            with bench.queue_worker(environ, worker) as running:
                starts[worker.name].append(running.start)
                loads[worker.name].append(running.measure_chats(levels, options.rounds, TOKENS))
        engine.append(measure_engine(bench, levels, PROMPT_TOKENS, TOKENS))
    return {
        "engine": {"load": median_loads(engine)},
        **{
            name: {"start": asdict(median_start(starts[name])), "load": median_loads(loads[name])}
            for name in starts
        },
    }


def tables(measured: Any) -> Sequence[Table]:
    baseline, worker, engine = (measured[name] for name in ("baseline", "worker", "engine"))
    rows = load_rows(baseline["load"], worker["load"], BASELINE_FIGURES, BASELINE_TARGETS)
    before, after = baseline["start"]["seconds"], worker["start"]["seconds"]
    rows.append(Row("process start → first token, caches warm (s)", before, after, START_TARGET))
    alone = load_rows(engine["load"], worker["load"], ENGINE_FIGURES, ENGINE_TARGETS)
    return [Table("baseline", "worker", rows), Table("engine alone", "worker", alone)]


def measure_engine(
    bench: Bench, levels: Sequence[int], prompt_tokens: int, output_tokens: int
) -> Loads:
    """Measure the engine alone, in a process of its own."""
    found = run_process(
        bench,
        Variant("none"),
        timeout_seconds=bench.options.timeout,
        concurrency=levels,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )
    if "error" in found:
        raise RuntimeError(f"the engine alone: {found['error']}")
    return {int(level): figures for level, figures in found["load"].items()}


CASE = Case("main", "Worker compared with a worker that forwards to a subprocess", measure, tables)
