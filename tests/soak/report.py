"""The report of a soak: JSON, and a section in Markdown."""

from collections.abc import Mapping
from typing import Any


def markdown(figures: Mapping[str, Any]) -> str:
    """Return a section for a page of documentation."""
    lines = [
        f"### {figures['engine']} on the {figures['device']} device, {figures['mode']}, "
        f"{figures['minutes']:g} minutes, seed {figures['seed']}",
        "",
        f"Schedule {figures['digest']}; {figures['seconds']:.0f} s; "
        f"{figures.get('cores', 0):.2f} cores on average; "
        f"{figures.get('chunks_checked', 0)} chunks checked, "
        f"{figures.get('chunks_repeated', 0)} of them sent twice.",
        "",
        "| must be none | found | |",
        "| --- | --- | --- |",
    ]
    for each in figures["invariants"]:
        verdict = each["verdict"] if each["verdict"] == "holds" else f"**{each['verdict']}**"
        lines.append(f"| {each['name']} | {each['value']} | {verdict} |")
    if jobs := figures.get("jobs"):
        lines += ["", "| jobs | outcomes |", "| --- | --- |"]
        lines += [f"| {kind} | {_counts(outcomes)} |" for kind, outcomes in sorted(jobs.items())]
    lines += ["", f"Faults: {_counts(figures.get('faults', {}))}."]
    if most := figures.get("most_open"):
        ping = figures["ping"]
        lines.append(
            f"At most {most} connections at once. /ping without a fault: p50 {ping['p50_ms']} ms, "
            f"p99 {ping['p99_ms']} ms, longest {ping['max_ms']} ms."
        )
    if volumes := figures.get("volumes"):
        lines.append(f"Network volume: {_counts(volumes)}.")
    lines += ["", "| worker | ended with | why | s | memory, MiB | descriptors | threads |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    lives = {life["name"]: life for life in figures.get("lives", [])}
    for end in figures.get("restarts", []):
        life = lives.get(end["worker"], {})
        lines.append(
            f"| {end['worker']} | {end['code']} | {end['why']} | {end['seconds']:.0f} "
            f"| {_memory(life)} | {_spread(life, 'descriptors')} | {_spread(life, 'threads')} |"
        )
    for each in figures["invariants"]:
        if each["verdict"] == "broken":
            lines += ["", f"Broken: {each['name']}", *(f"- {one}" for one in each["violations"])]
    return "\n".join(lines) + "\n"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "none"


def _memory(life: Mapping[str, Any]) -> str:
    memory = life.get("memory_mib", {})
    if not memory.get("largest"):
        return "–"
    rate, grown = memory["percent_an_hour"], f"{memory['grown']:+g} in {memory['seconds']:.0f} s"
    rise = grown if rate is None else f"{grown}, {rate} %/h"
    if memory["verdict"] == "not judged":
        return f"{memory['last']} (not judged)"
    return f"{memory['last']} ({memory['verdict']}: {rise})"


def _spread(life: Mapping[str, Any], name: str) -> str:
    return " → ".join(f"{each:g}" for each in life.get(name, [])) or "–"
