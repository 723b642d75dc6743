"""Measurements → the table of ratios, each beside its target."""

from collections.abc import Callable, Mapping
from typing import Any

Measured = Mapping[str, Any]


def table(measured: Measured) -> str:
    """Return Markdown: both numbers, their ratio, its target, and whether that is met."""
    lines = [
        "| what | baseline | worker | ratio | target | met |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    baseline, worker = measured["baseline"], measured["worker"]
    for what, target, most, read in ROWS:
        theirs, ours = read(baseline), read(worker)
        lines.append(_line(what, theirs, ours, target, most))
    engine = measured["engine"]["tokens_per_second"]
    ours = _of("192", "tokens_per_second")(worker)
    lines.append(
        _line("tokens/s at 192 streams against the engine alone", engine, ours, 0.8, False)
    )
    return "\n".join(lines) + "\n"


def _line(what: str, theirs: float, ours: float, target: float, most: bool) -> str:
    ratio = ours / theirs
    met = ratio <= target if most else ratio >= target
    sign = "≤" if most else "≥"
    shown = "yes" if met else "no"
    return f"| {what} | {theirs:.4g} | {ours:.4g} | {ratio:.2f} | {sign} {target} | {shown} |"


def _of(streams: str, name: str) -> Callable[[Measured], float]:
    return lambda worker: float(worker["load"][streams][name])


# What, the target ratio, whether it is the most that it may be, and where it stands.
ROWS: tuple[tuple[str, float, bool, Callable[[Measured], float]], ...] = (
    ("tokens/s at 192 streams", 1.8, False, _of("192", "tokens_per_second")),
    ("tokens/s at 64 streams", 1.2, False, _of("64", "tokens_per_second")),
    ("tokens/s at 16 streams", 1.2, False, _of("16", "tokens_per_second")),
    ("time to first token, p50, 192 streams (s)", 0.6, True, _of("192", "first_token_p50")),
    ("time to first token, p99, 192 streams (s)", 0.6, True, _of("192", "first_token_p99")),
    ("time to first token, one stream (s)", 1.0, True, _of("1", "first_token_p50")),
    ("total, one stream (s)", 1.0, True, _of("1", "total_p50")),
    ("CPU per token at 192 streams (ms)", 0.5, True, _of("192", "cpu_ms_per_token")),
    (
        "process start → first token, caches warm (s)",
        0.45,
        True,
        lambda w: w["first_token_seconds"],
    ),
)
