"""The worker over HTTP compared with the engine's own server: same engine, arguments and client.

They take turns, so that a slow minute of the machine does not hit one of them only.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.http_server import running_http_worker, running_vllm_server
from benchmarks.load import Loads, median_loads
from benchmarks.report import Table, Target, load_rows

TOKENS = 128
SIDES = {"server": running_vllm_server, "worker": running_http_worker}
FIGURES = (
    "output_tokens_per_second",
    "ttft_p50_seconds",
    "ttft_p99_seconds",
    "cpu_ms_per_token",
    "messages_per_request",
)
LEVELS = (1, 16, 64, 192, 512)
TARGETS = {
    (figure, str(level)): target
    for level in LEVELS
    for figure, target in {
        "output_tokens_per_second": Target(1.0),
        "ttft_p50_seconds": Target(1.0, is_maximum=True),
        "ttft_p99_seconds": Target(1.0, is_maximum=True),
    }.items()
}


def measure(bench: Bench) -> dict[str, Any]:
    options, environ, levels = bench.options, bench.environment(), bench.levels(LEVELS)
    loads: dict[str, list[Loads]] = {name: [] for name in SIDES}
    for _ in range(options.starts):
        for name, running in SIDES.items():
            with running(environ, bench.device.python["vllm"]) as server:
                loads[name].append(server.measure_chats(levels, options.rounds * 2, TOKENS))
    return {name: median_loads(runs) for name, runs in loads.items()}


def tables(measured: Any) -> Sequence[Table]:
    rows = load_rows(measured["server"], measured["worker"], FIGURES, TARGETS)
    return [Table("engine's own server", "worker", rows)]


CASE = Case("http", "Worker over HTTP compared with the engine's own server", measure, tables)
