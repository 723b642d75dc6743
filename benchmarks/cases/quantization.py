"""The demo model in AWQ and in FP8, against bf16."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import load
from benchmarks.case import Bench, Case, Measured, demo
from benchmarks.processes import memory_bytes
from benchmarks.report import Row, Table

STREAMS = 4
# Tokens of a job. FP8 is emulated on a CPU, at about one token a second.
TOKENS = {"bf16": 32, "awq": 32, "fp8": 3}
NOTE = "A CPU's kernels: AWQ has its own, FP8 is emulated. On a GPU both are other code."


def measure(bench: Bench) -> Measured:
    """Serve each variant."""
    made: dict[str, Any] = {}
    for variant, tokens in TOKENS.items():
        with bench.serving(bench.environment(demo(variant))) as endpoint:
            loaded = load.measure(
                endpoint.platform, endpoint.pid, STREAMS, STREAMS * bench.rounds, tokens
            )
            made[variant] = {
                "memory_bytes": memory_bytes(endpoint.pid),
                **asdict(loaded),
            }
    return made


def tables(measured: Measured) -> Sequence[Table]:
    """Return a table for each method."""
    figures = {
        "token_p50": f"a token after the first, p50, {STREAMS} streams (s)",
        "first_token_p50": "time to first token, p50 (s)",
        "memory_bytes": "memory of the worker (bytes)",
    }
    return [
        Table(
            "bf16",
            variant,
            [
                Row(what, measured["bf16"][figure], measured[variant][figure])
                for figure, what in figures.items()
            ],
            NOTE if variant == "fp8" else "",
        )
        for variant in ("awq", "fp8")
    ]


CASE = Case("quantization", "The demo model quantized, against bf16", measure, tables)
