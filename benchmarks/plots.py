"""Figures of the main case. The same figures give the same files, byte for byte."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Measured = Mapping[str, Any]

NAMES = {
    "worker": "this worker",
    "baseline": "worker that forwards",
    "engine": "engine alone",
}
COLOURS = {"worker": "#1f6feb", "baseline": "#9a6700", "engine": "#57606a"}
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#d8dee4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "benchmarks",
}


def load(measured: Measured) -> Figure:
    """Return tokens per second and time to first token against the streams, of all three."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.0), layout="constrained")
        figure.suptitle("The same engine behind this worker, behind one that forwards, and alone")
        rate, wait = figure.subplots(1, 2)
        _lines(rate, measured, "tokens_per_second")
        rate.set_ylabel("tokens per second, all streams")
        rate.legend()
        _lines(wait, measured, "first_token_p50")
        wait.set_ylabel("time to first token, median (s)")
        return figure


def start(measured: Measured) -> Figure:
    """Return the stages of both starts on one axis of time."""
    bars = [
        (name, stage)
        for name in ("baseline", "worker")
        for stage in sorted(measured[name]["start"]["stages"], key=lambda s: s["begin_seconds"])
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.4 + 0.34 * len(bars)), layout="constrained")
        figure.suptitle("Cold start with warm caches: this worker and one that forwards")
        axes = figure.subplots()
        for place, (name, stage) in enumerate(bars):
            axes.barh(
                place,
                stage["seconds"],
                left=stage["begin_seconds"],
                color=COLOURS[name],
                label=NAMES[name] if name not in [other for other, _ in bars[:place]] else None,
            )
        axes.set_yticks(range(len(bars)), [stage["name"] for _, stage in bars])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds from the process's start to the first token of a waiting job")
        axes.legend(loc="lower right")
        return figure


def write(figure: Figure, path: Path) -> None:
    """Write an SVG without a date."""
    with mpl.rc_context(STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _lines(axes: Axes, measured: Measured, name: str) -> None:
    streams: Sequence[int] = []
    for contender, shown in NAMES.items():
        loads = measured[contender]["load"]
        streams = [int(number) for number in loads]
        axes.plot(
            streams,
            [each[name] for each in loads.values()],
            label=shown,
            color=COLOURS[contender],
            linestyle="--" if contender == "engine" else "-",
            marker="o",
            markersize=4,
        )
    axes.set_xscale("log")
    axes.set_xticks(streams, [str(number) for number in streams])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("streams at once")
