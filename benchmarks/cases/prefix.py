"""Prompts that share their beginning, with the prefix cache and without."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.bench import Bench, Case
from benchmarks.load import Body, chat_body
from benchmarks.report import Table, load_rows

CONCURRENCY = 16
TOKENS = 16
PREFIX_TOKENS = 970
SENTENCE = "You answer questions about geography in one short sentence. "
FIGURES = ("ttft_p50_seconds", "output_tokens_per_second", "cpu_ms_per_token")


def measure(bench: Bench) -> dict[str, Any]:
    """Use the demo model, whose prefill takes time; one job fills the cache."""
    measured: dict[str, Any] = {}
    for setting in ("false", "true"):
        environ = bench.demo_environment("bf16", ENABLE_PREFIX_CACHING=setting)
        bodies = _bodies(Path(environ["MODEL_NAME"]))
        with bench.queue_worker(environ) as running:
            measured[setting] = running.measure(CONCURRENCY, bodies, warm_up=1)
    return measured


def tables(measured: Any) -> Sequence[Table]:
    without, cached = measured["false"], measured["true"]
    level = str(CONCURRENCY)
    note = (
        f"Of {cached['prompt_tokens']:.0f} tokens of a prompt {cached['cached_tokens']:.0f} came "
        f"from the cache, and {without['cached_tokens']:.0f} without it."
    )
    return [Table("no cache", "cache", load_rows({level: without}, {level: cached}, FIGURES), note)]


def _bodies(model: Path) -> list[Body]:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    repeats = PREFIX_TOKENS // len(tokenizer.encode(SENTENCE).ids)
    return [
        chat_body(f"{SENTENCE * repeats}Where is city number {number}?", TOKENS)
        for number in range(CONCURRENCY)
    ]


CASE = Case("prefix", "Prompts that share 1,000 tokens, with and without cache", measure, tables)
