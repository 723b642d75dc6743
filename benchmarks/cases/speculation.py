"""Speculation that needs no second model, against none: what it costs, and what it gains."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import load, metrics
from benchmarks.case import Bench, Case, Measured, demo
from benchmarks.report import Row, Table

STREAMS = (1, 16)
TOKENS = 64
METHODS = ("none", "ngram")
NOTES = {
    "tiny": "A model at random repeats nothing, and its tokens cost next to nothing: what is seen "
    "is the cost of looking for drafts.",
    "demo": "Counting to seven over and over: the text that ngram is for. One thread of a CPU is "
    "soon busy with checking, where a GPU with few streams has time to spare.",
}


def measure(bench: Bench) -> Measured:
    """Ask a tiny model whatever, and the demo model for a text that repeats itself."""
    models = {"tiny": (None, load.chat), "demo": (demo("bf16"), _repeat)}
    return {
        name: {method: _method(bench, model, make, method) for method in METHODS}
        for name, (model, make) in models.items()
    }


def tables(measured: Measured) -> Sequence[Table]:
    """Return for each model what the drafts change, and how many of them were right."""
    return [
        _table(name, *(models[method] for method in METHODS)) for name, models in measured.items()
    ]


def _method(bench: Bench, model: Path | None, make: load.JobMaker, method: str) -> dict[str, Any]:
    with bench.serving(bench.environment(model, SPECULATIVE_METHOD=method)) as endpoint:
        loads = {
            streams: asdict(
                load.measure(
                    endpoint.platform, endpoint.pid, streams, max(streams, 2), TOKENS, make
                )
            )
            for streams in STREAMS
        }
        told = metrics.text(endpoint.platform)
    return {
        "load": loads,
        "drafted": metrics.total(told, "vllm:spec_decode_num_draft_tokens_total"),
        "accepted": metrics.total(told, "vllm:spec_decode_num_accepted_tokens_total"),
    }


def _table(name: str, without: Measured, drafting: Measured) -> Table:
    figures = {
        "tokens_per_second": "tokens/s",
        "cpu_ms_per_token": "CPU per token (ms)",
        "first_token_p50": "time to first token, p50 (s)",
    }
    rows = [
        Row(
            f"{what}, streams: {streams}",
            without["load"][str(streams)][figure],
            drafting["load"][str(streams)][figure],
        )
        for streams in STREAMS
        for figure, what in figures.items()
    ]
    accepted = drafting["accepted"] / drafting["drafted"] if drafting["drafted"] else 0.0
    counted = f"Of {drafting['drafted']:.0f} drafted tokens {accepted:.0%} were accepted."
    return Table(f"{name} model, none", f"{name} model, ngram", rows, f"{counted} {NOTES[name]}")


def _repeat(_: int, tokens: int) -> dict[str, Any]:
    return load.asking("Go on: " + "one two three four five six seven " * 6, tokens)


CASE = Case("speculation", "Tokens drafted from the text so far, against none", measure, tables)
