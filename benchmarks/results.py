"""The folder of results: a JSON file for each case, and a page and plots made from all of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.case import Case, Measured
from benchmarks.machine import Machine, line
from benchmarks.report import markdown

Result = Mapping[str, Any]
PLOTTED = "main"
ALTERNATIVES = {
    "load": "Tokens per second and time to first token against the number of streams",
    "start": "The stages of a cold start of both workers",
}


def save(folder: Path, case: Case, machine: Machine, measured: Measured) -> None:
    """Write what a case measured, and on which machine."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine, "measured": measured}
    (folder / f"{case.name}.json").write_text(json.dumps(result, indent=1) + "\n")


def read(folder: Path, cases: Mapping[str, Case]) -> dict[str, Result]:
    """Return the results that are there, by the case's name."""
    paths = {name: folder / f"{name}.json" for name in cases}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def publish(folder: Path, cases: Mapping[str, Case]) -> str:
    """Write the page and the plots of all results; return the page."""
    results = read(folder, cases)
    text = page(results, cases)
    (folder / "README.md").write_text(text)
    if PLOTTED in results:
        measured = results[PLOTTED]["measured"]
        plots.write(plots.load(measured), folder / "load.svg")
        plots.write(plots.start(measured), folder / "start.svg")
    return text


def page(results: Mapping[str, Result], cases: Mapping[str, Case]) -> str:
    """Return the tables, each below its case's heading and its machine."""
    parts = [
        "# Results\n",
        "Written by `make bench`. Ratios count; absolute times are not stable.\n",
    ]
    for name, result in results.items():
        parts.append(f"## {cases[name].what}\n")
        parts.append(f"`{name}`, on {line(result['machine'])}.\n")
        parts += [markdown(table) for table in cases[name].tables(result["measured"])]
        if name == PLOTTED:
            parts += [f"![{text}]({plot}.svg)\n" for plot, text in ALTERNATIVES.items()]
    return "\n".join(parts)
