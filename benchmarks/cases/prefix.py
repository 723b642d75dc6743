"""Prompts that share their beginning, with the prefix cache and without."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import load
from benchmarks.case import Bench, Case, Measured, demo
from benchmarks.report import Row, Table

STREAMS = 16
TOKENS = 16
PREFIX = "You answer questions about geography in one short sentence. " * 96  # 1,000 tokens


def measure(bench: Bench) -> Measured:
    """Ask the demo model, for which a prompt is work; one job fills the cache."""
    made: dict[str, Any] = {}
    for setting in ("false", "true"):
        environ = bench.environment(demo("bf16"), ENABLE_PREFIX_CACHING=setting)
        with bench.serving(environ) as endpoint:
            loaded = load.measure(
                endpoint.platform, endpoint.pid, STREAMS, STREAMS, TOKENS, _question, warm_jobs=1
            )
            made[setting] = asdict(loaded)
    return made


def tables(measured: Measured) -> Sequence[Table]:
    """Return what the cache changes."""
    without, cached = measured["false"], measured["true"]
    figures = {
        "first_token_p50": f"time to first token, p50, {STREAMS} streams (s)",
        "tokens_per_second": "tokens/s",
        "cpu_ms_per_token": "CPU per token (ms)",
    }
    rows = [Row(what, without[figure], cached[figure]) for figure, what in figures.items()]
    note = (
        f"Of {cached['prompt_tokens']:.0f} tokens of a prompt {cached['cached_tokens']:.0f} came "
        f"from the cache, and {without['cached_tokens']:.0f} without it."
    )
    return [Table("no cache", "cache", rows, note)]


def _question(number: int, tokens: int) -> dict[str, Any]:
    return load.asking(f"{PREFIX}Where is city number {number}?", tokens)


CASE = Case("prefix", "Prompts that share 1,000 tokens, with and without cache", measure, tables)
