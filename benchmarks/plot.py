"""Plot of the case `main`: load against concurrency, and the stages of both cold starts.

python -m benchmarks.plot benchmarks/results/main.json benchmarks/results/main.png
"""

import json
import sys
from pathlib import Path
from typing import Any

LABELS = {"worker": "this worker", "baseline": "worker that forwards", "engine": "engine alone"}
COLOURS = {"worker": "#1f6feb", "baseline": "#9a6700", "engine": "#57606a"}
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "font.size": 9,
    "grid.color": "#d8dee4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def write(result: Path, path: Path) -> None:
    """Draw a result's file as PNG."""
    draw(json.loads(result.read_text())["measured"]).savefig(path, dpi=100)


def draw(measured: Any) -> Any:
    """Draw what the case measured as a matplotlib figure."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 6.8), layout="constrained")
        top, bottom = figure.subfigures(2, 1, squeeze=False).flat
        throughput, ttft = top.subplots(1, 2)
        _draw_load(throughput, measured, "output_tokens_per_second", "throughput (tokens/s)")
        throughput.legend()
        _draw_load(ttft, measured, "ttft_p50_seconds", "time to first token, median (s)")
        _draw_starts(bottom.subplots(), measured)
        return figure


def _draw_load(axes: Any, measured: Any, figure: str, label: str) -> None:
    for side, name in LABELS.items():
        loads = measured[side]["load"]
        levels = [int(level) for level in loads]
        values = [figures[figure] for figures in loads.values()]
        style = {"linestyle": "--" if side == "engine" else "-", "marker": "o", "markersize": 4}
        axes.plot(levels, values, label=name, color=COLOURS[side], **style)
    axes.set_xscale("log")
    axes.set_xticks(levels, list(loads))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("concurrency")
    axes.set_title(label, fontsize=10)


def _draw_starts(axes: Any, measured: Any) -> None:
    bars = [
        (side, stage)
        for side in ("baseline", "worker")
        for stage in sorted(measured[side]["start"]["stages"], key=lambda s: s["begin_seconds"])
    ]
    for row, (side, stage) in enumerate(bars):
        seconds, begin = stage["seconds"], stage["begin_seconds"]
        axes.barh(row, seconds, left=begin, color=COLOURS[side])
        axes.text(begin + seconds, row, f" {seconds:.2g} s", va="center", fontsize=7.5)
    axes.set_yticks(range(len(bars)), [stage["name"] for _, stage in bars], fontsize=7.5)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds since the process's start")
    axes.set_title("cold start with warm caches, to the first token of a waiting job", fontsize=10)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
