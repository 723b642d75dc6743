"""Many streams that begin at once, on a platform that accepts connections slowly.

Each stream's first POST needs a connection. A server drops those that its accept queue has no place
for, and the kernel tries again a second later. 128 is a usual length; 4,096 has room for all.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.load import Loads, median_loads
from benchmarks.report import Table, Target, load_rows

LEVELS = (512,)
TOKENS = 128
LONG, SHORT = 4096, 128
FIGURES = (
    "output_tokens_per_second",
    "ttft_p50_seconds",
    "ttft_p99_seconds",
    "flush_gap_p99_seconds",
)
TARGETS = {("output_tokens_per_second", "512"): Target(0.95)}


def measure(bench: Bench) -> dict[str, Any]:
    """Take turns, so that a slow minute of the machine does not hit one side only."""
    loads: dict[int, list[Loads]] = {LONG: [], SHORT: []}
    levels = bench.levels(LEVELS)
    for _ in range(bench.options.starts):
        for length, runs in loads.items():
            with bench.queue_worker(bench.environment(), accept_queue=length) as running:
                runs.append(running.measure_chats(levels, bench.options.rounds, TOKENS))
    return {str(length): median_loads(runs) for length, runs in loads.items()}


def tables(measured: Any) -> Sequence[Table]:
    rows = load_rows(measured[str(LONG)], measured[str(SHORT)], FIGURES, TARGETS)
    return [Table(f"accept queue of {LONG:,}", f"of {SHORT}", rows)]


CASE = Case("accept_queue", "A platform with a short accept queue", measure, tables)
