"""Both workers with a platform that answers POSTs slowly."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.load import Loads
from benchmarks.queue_worker import BASELINE, WORKER
from benchmarks.report import Table, load_rows

DELAYS_MS = (0, 20, 50, 150)
CONCURRENCY = (64, 192)
TOKENS = 128
FIGURES = ("output_tokens_per_second", "ttft_p50_seconds", "messages_per_request")


def measure(bench: Bench) -> dict[str, Any]:
    """Change the delay while a worker runs."""
    environ = bench.environment()
    measured: dict[str, Any] = {}
    for worker in (BASELINE, WORKER):
        loads: dict[int, Loads] = {}
        with bench.queue_worker(environ, worker) as running:
            for delay in DELAYS_MS:
                running.platform.post_delay_seconds = delay / 1000
                loads[delay] = running.measure_chats(CONCURRENCY, bench.options.rounds, TOKENS)
        measured[worker.name] = loads
    return measured


def tables(measured: Any) -> Sequence[Table]:
    rows = [
        replace(row, label=f"{row.label}, {delay} ms")
        for figure in FIGURES
        for delay in measured["worker"]
        for row in load_rows(measured["baseline"][delay], measured["worker"][delay], [figure])
    ]
    return [Table("baseline", "worker", rows, "Messages are POSTs to the platform.")]


CASE = Case("delays", "The platform takes 0 to 150 ms to answer a POST", measure, tables)
