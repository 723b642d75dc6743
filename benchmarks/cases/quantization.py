"""A model in AWQ and in FP8, compared with bf16."""

from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.load import chat_bodies
from benchmarks.machine import memory_bytes
from benchmarks.report import Row, Table, load_rows

CONCURRENCY = 4
TOKENS = 32
EMULATED_FP8_TOKENS = 3  # FP8 is emulated on a CPU, at about one token a second
FIGURES = ("itl_p50_seconds", "ttft_p50_seconds")
NOTE = "A CPU's kernels: AWQ has its own, FP8 is emulated. A GPU has others for both."


def measure(bench: Bench) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    for variant in ("bf16", "awq", "fp8"):
        is_emulated = variant == "fp8" and bench.device.name == "cpu"
        tokens = EMULATED_FP8_TOKENS if is_emulated else TOKENS
        with bench.queue_worker(bench.demo_environment(variant)) as running:
            bodies = chat_bodies(CONCURRENCY * bench.options.rounds, tokens)
            loaded = running.measure(CONCURRENCY, bodies)
            measured[variant] = {"memory_bytes": memory_bytes(running.pid), **loaded}
    return measured


def tables(measured: Any) -> Sequence[Table]:
    return [_table(variant, measured["bf16"], measured[variant]) for variant in ("awq", "fp8")]


def _table(variant: str, bf16: Any, other: Any) -> Table:
    level = str(CONCURRENCY)
    rows = load_rows({level: bf16}, {level: other}, FIGURES)
    before, after = bf16["memory_bytes"] / 2**20, other["memory_bytes"] / 2**20
    rows.append(Row("memory of the worker (MiB)", before, after))
    return Table("bf16", variant, rows, NOTE if variant == "fp8" else "")


CASE = Case("quantization", "A quantized model compared with bf16", measure, tables)
