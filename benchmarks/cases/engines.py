"""The worker with one engine, and with the other."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import load
from benchmarks.case import Bench, Case, Measured
from benchmarks.report import Row, Table
from benchmarks.workers import SGLANG_WORKER, WORKER

STREAMS = (1, 16)
TOKENS = 32
NOTE = (
    "SGLang has no kernels for a CPU here: its attention is plain PyTorch, and `tests/sglang_cpu` "
    "stands in for what it imports. On a GPU both engines are other code."
)


def measure(bench: Bench) -> Measured:
    """Serve the same model with each."""
    made: dict[str, Any] = {}
    for engine, contender in (("vllm", WORKER), ("sglang", SGLANG_WORKER)):
        environ = bench.environment(None, engine)
        with bench.serving(environ, contender):
            pass  # it has filled the caches
        with bench.serving(environ, contender) as endpoint:
            made[engine] = {
                "start": asdict(endpoint.start),
                "load": {
                    streams: asdict(
                        load.measure(
                            endpoint.platform,
                            endpoint.pid,
                            streams,
                            max(streams, 2) * bench.rounds,
                            TOKENS,
                        )
                    )
                    for streams in STREAMS
                },
            }
    return made


def tables(measured: Measured) -> Sequence[Table]:
    """Return SGLang against vLLM."""
    vllm, sglang = measured["vllm"], measured["sglang"]
    figures = {
        "tokens_per_second": "tokens/s",
        "first_token_p50": "time to first token, p50 (s)",
        "cpu_ms_per_token": "CPU per token (ms)",
    }
    rows = [
        Row(
            "process start → first token (s)", vllm["start"]["seconds"], sglang["start"]["seconds"]
        ),
        *(
            Row(
                f"{what}, {streams} streams",
                vllm["load"][str(streams)][figure],
                sglang["load"][str(streams)][figure],
            )
            for streams in STREAMS
            for figure, what in figures.items()
        ),
    ]
    return [Table("vLLM", "SGLang", rows, NOTE)]


CASE = Case("engines", "SGLang against vLLM in the same worker", measure, tables)
