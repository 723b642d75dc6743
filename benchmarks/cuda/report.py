"""What the cases found → stages from the engine's log, ratios beside absolutes, Markdown.

The engine's log is the only place where the parts of its start stand. Its lines change between
releases: what is not found is None, and the seconds of one's parts need not add up.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NUMBER = r"([\d.,]*\d)"
# Parts of the start, in seconds, as vLLM 0.20 to 0.32 write them.
STAGES: Mapping[str, str] = {
    "model": rf"Model loading took .*? and {NUMBER} seconds",
    "dynamo": rf"Dynamo bytecode transform time: {NUMBER} s",
    "compile": rf"torch\.compile (?:takes|took) {NUMBER} s in total",
    "profile": rf"Initial profiling/warmup run took {NUMBER} s",
    "graphs": rf"(?<!Encoder )[Gg]raph capturing finished in {NUMBER} sec",
    "after_model": rf"init engine \(profile, create kv cache, warmup model\) took {NUMBER} s",
}
FACTS: Mapping[str, str] = {
    "model_gib": rf"Model loading took {NUMBER} GiB",
    "kv_cache_tokens": rf"KV cache size: {NUMBER} tokens",
}

STAGE_COLUMNS = (
    *("imports", "config", "engine", "model", "dynamo", "compile", "profile", "graphs"),
    *("after_model", "first_token", "total"),
)
LOAD_COLUMNS: Mapping[str, str] = {
    "tokens_per_second": "tokens/s",
    "first_token_p50_seconds": "first token p50 (s)",
    "first_token_p99_seconds": "first token p99 (s)",
    "inter_token_p50_seconds": "between tokens p50 (s)",
    "cpu_ms_per_token": "CPU per token (ms)",
}
REPETITIVE_COLUMNS: Mapping[str, str] = {
    "tokens_per_second": "tokens/s",
    "inter_token_p50_seconds": "between tokens p50 (s)",
    "accepted_share": "accepted",
    "tokens_per_draft": "tokens per draft",
}
FACT_NAMES = {"model_gib": "model (GiB)", "kv_cache_tokens": "KV cache (tokens)"}
# Case, the case it is held against, and what of both.
PAIRS = (
    ("fp8", "bf16", "load"),
    ("awq", "bf16", "load"),
    ("fp8-worker", "fp8", "load"),
    ("bf16-kv-fp8", "bf16", "load"),
    ("fp8-ngram", "fp8", "repetitive"),
)

Cases = Mapping[str, Mapping[str, Any]]


def read_log(log: str, patterns: Mapping[str, str]) -> dict[str, float | None]:
    """Return the number at each pattern's first match, None without one."""
    matches = {name: re.search(pattern, log) for name, pattern in patterns.items()}
    return {
        name: float(match[1].replace(",", "")) if match else None for name, match in matches.items()
    }


def ratios(cases: Cases) -> list[dict[str, Any]]:
    """Return every ratio that has both its sides, with what it is of."""
    return [row for row in _ratios(cases) if row["ratio"] is not None]


def _ratios(cases: Cases) -> Iterator[dict[str, Any]]:
    for ours, theirs, kind in PAIRS:
        loads, others = _of(cases, ours, kind), _of(cases, theirs, kind)
        for streams in (streams for streams in loads if streams in others):
            for figure, shown in LOAD_COLUMNS.items():
                one, other = loads[streams][figure], others[streams][figure]
                yield _ratio(f"{shown}, streams: {streams}", ours, theirs, one, other)
        for fact, shown in FACT_NAMES.items():
            one, other = (cases.get(name, {}).get(fact) for name in (ours, theirs))
            yield _ratio(shown, ours, theirs, one, other)
    for name in cases:
        starts = _of(cases, name, "starts")
        warm, cold = (_total(starts, start) for start in ("warm", "cold"))
        yield _ratio("start → first token (s)", f"{name} warm", f"{name} cold", warm, cold)
    worker = _total(_of(cases, "fp8-worker", "starts"), "shared")
    alone = _total(_of(cases, "fp8", "starts"), "warm")
    yield _ratio("start → first token (s)", "fp8-worker", "fp8 warm", worker, alone)


def _of(cases: Cases, name: str, kind: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = cases.get(name, {}).get(kind, {})
    return found


def _total(starts: Mapping[str, Any], start: str) -> float | None:
    seconds: float | None = starts.get(start, {}).get("total")
    return seconds


def _ratio(what: str, of: str, to: str, one: float | None, other: float | None) -> dict[str, Any]:
    ratio = one / other if one is not None and other else None
    return {"what": what, "of": of, "to": to, "value": one, "reference": other, "ratio": ratio}


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as tables: load, repetitive prompts, starts, ratios, what is missing."""
    cases: Cases = report["cases"]
    parts = [", ".join(f"{name} {value}" for name, value in report["machine"].items())]
    parts += _loads("load", cases, LOAD_COLUMNS)
    parts += _loads("repetitive", cases, REPETITIVE_COLUMNS)
    starts = [
        [name, start, *(stages.get(stage) for stage in STAGE_COLUMNS)]
        for name in cases
        for start, stages in _of(cases, name, "starts").items()
    ]
    parts += _table(["case", "start (s)", *STAGE_COLUMNS], starts)
    rows = [
        [*(row[key] for key in ("what", "of", "to", "value", "reference", "ratio"))]
        for row in report["ratios"]
    ]
    parts += _table(["what", "of", "to", "value", "reference", "ratio"], rows)
    parts += [
        f"{name}: {case[key].splitlines()[0]}"
        for name, case in cases.items()
        for key in ("error", "not_run")
        if key in case
    ]
    return "\n\n".join(parts) + "\n"


def _loads(kind: str, cases: Cases, columns: Mapping[str, str]) -> list[str]:
    rows = [
        [name, streams, *(load.get(column) for column in columns)]
        for name in cases
        for streams, load in _of(cases, name, kind).items()
    ]
    return _table(["case", f"streams, {kind}", *columns.values()], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return a table as one text, no text without rows."""
    lines = [head, ["---"] * len(head), *rows] if rows else []
    text = "\n".join(f"| {' | '.join(map(_shown, line))} |" for line in lines)
    return [text] if text else []


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
