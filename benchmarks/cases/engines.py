"""The worker with SGLang compared with the worker with vLLM."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.queue_worker import SGLANG_WORKER, WORKER
from benchmarks.report import Row, Table, load_rows

LEVELS = (1, 16)  # on a CPU
GPU_LEVELS = (64, 192, 512)
TOKENS = {"cpu": 32, "gpu": 128, "simulated": 128}
FIGURES = ("output_tokens_per_second", "ttft_p50_seconds", "cpu_ms_per_token")
NOTE = (
    "On a CPU SGLang has no kernels here: its attention is plain PyTorch, and `tests/sglang_cpu` "
    "replaces what it imports. A GPU has other kernels for both engines; a simulated one has none."
)


def measure(bench: Bench) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    device = bench.device.name
    levels = bench.levels(LEVELS if device == "cpu" else GPU_LEVELS)
    for engine, worker in (("vllm", WORKER), ("sglang", SGLANG_WORKER)):
        environ = bench.environment(engine)
        with bench.queue_worker(environ, worker):
            pass  # this start fills the caches
        with bench.queue_worker(environ, worker) as running:
            loads = running.measure_chats(levels, bench.options.rounds, TOKENS[device])
            measured[engine] = {"start": asdict(running.start), "load": loads}
    return measured


def tables(measured: Any) -> Sequence[Table]:
    vllm, sglang = measured["vllm"], measured["sglang"]
    before, after = vllm["start"]["seconds"], sglang["start"]["seconds"]
    rows = [Row("process start → first token (s)", before, after)]
    rows += load_rows(vllm["load"], sglang["load"], FIGURES)
    return [Table("vLLM", "SGLang", rows, NOTE)]


CASE = Case("engines", "SGLang compared with vLLM in the same worker", measure, tables)
