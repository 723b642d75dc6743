"""N-gram speculation, which needs no second model, compared with none: its cost and its gain."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.load import Body, chat_bodies, chat_body
from benchmarks.queue_worker import fetch_metrics, metric_total
from benchmarks.report import Table, load_rows

CONCURRENCY = (1, 16)
TOKENS = 64
METHODS = ("none", "ngram")
REPEATING = "Go on: " + "one two three four five six seven " * 6
FIGURES = ("output_tokens_per_second", "cpu_ms_per_token", "ttft_p50_seconds")
NOTES = {
    "tiny": "A model with random weights repeats nothing, and its tokens cost next to nothing: the "
    "table shows the cost of looking for drafts.",
    "demo": "Repeated counting to seven is the best case of n-gram speculation. Verifying drafts "
    "soon fills one CPU thread; a GPU with few streams has time left.",
}


def measure(bench: Bench) -> dict[str, Any]:
    """Send chats to a model with random weights, and repeating text to the demo model."""
    measured: dict[str, Any] = {"tiny": {}, "demo": {}}
    for method in METHODS:
        setting = {"SPECULATIVE_METHOD": method}
        tiny = {level: chat_bodies(max(level, 2), TOKENS) for level in CONCURRENCY}
        demo = {level: [chat_body(REPEATING, TOKENS)] * max(level, 2) for level in CONCURRENCY}
        measured["tiny"][method] = _measure(bench, bench.environment(**setting), tiny)
        measured["demo"][method] = _measure(bench, bench.demo_environment("bf16", **setting), demo)
    return measured


def tables(measured: Any) -> Sequence[Table]:
    return [_table(name, *(methods[m] for m in METHODS)) for name, methods in measured.items()]


def _measure(
    bench: Bench, environ: Mapping[str, str], bodies: Mapping[int, Sequence[Body]]
) -> dict[str, Any]:
    with bench.queue_worker(environ) as running:
        loads = {level: running.measure(level, bodies[level]) for level in bodies}
        metrics = fetch_metrics(running.platform)
    return {
        "load": loads,
        "drafted": metric_total(metrics, "vllm:spec_decode_num_draft_tokens_total"),
        "accepted": metric_total(metrics, "vllm:spec_decode_num_accepted_tokens_total"),
    }


def _table(name: str, without: Any, drafting: Any) -> Table:
    accepted = drafting["accepted"] / drafting["drafted"] if drafting["drafted"] else 0.0
    return Table(
        f"{name} model, none",
        f"{name} model, ngram",
        load_rows(without["load"], drafting["load"], FIGURES),
        f"Of {drafting['drafted']:.0f} drafted tokens {accepted:.0%} were accepted. {NOTES[name]}",
    )


CASE = Case("speculation", "N-gram speculation compared with none", measure, tables)
