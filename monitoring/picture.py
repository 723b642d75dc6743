"""A picture of the dashboard, from what a Prometheus has recorded, without a Grafana.

`python -m monitoring.picture http://127.0.0.1:9090 dashboard.svg --minutes 30`. Which panels there
are and what they ask stands in dashboard.py; here is how each kind is drawn.
"""

import argparse
import io
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from monitoring.dashboard import COLUMNS, dashboard
from monitoring.frame import (
    COLUMN_INCHES,
    GAP_INCHES,
    LINE_INCHES,
    PAGE,
    STYLE,
    TEXT,
    axes_of,
    no_data,
    shown,
    since_start,
)
from monitoring.panels import BLUE, GREEN, ORANGE, PURPLE, RED, YELLOW, Panel
from monitoring.recorded import Line, Prometheus, filled

POINTS = 110  # of a line
SHOWN_STATE = 0.035  # of a panel's width; a shorter one has no text
PALETTE = [GREEN, YELLOW, BLUE, ORANGE, RED, PURPLE]


class Picture:
    """The dashboard between two times.

    Args:
        prometheus: has recorded them.
        start: in seconds since the epoch.
        end: likewise.
        rate_interval: what a rate is taken over, such as "1m"; four scrapes or more.
    """

    def __init__(
        self, prometheus: Prometheus, start: float, end: float, rate_interval: str
    ) -> None:
        self._prometheus = prometheus
        self._start, self._end = start, end
        self._rate_interval = rate_interval
        self._draw = {
            "timeseries": self._timeseries,
            "stat": self._stat,
            "state-timeline": self._states,
            "bargauge": self._bars,
        }

    def figure(self) -> Figure:
        """Return it drawn."""
        panels = dashboard()["panels"]
        lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
        size = (COLUMNS * COLUMN_INCHES, lines * LINE_INCHES + GAP_INCHES)
        figure = Figure(figsize=size)
        for panel in panels:
            axes = axes_of(figure, panel)
            if axes is not None:
                self._draw[panel["type"]](axes, panel)
        return figure

    # ---- what is recorded ----

    def _now(self, panel: Panel) -> list[tuple[str, float]]:
        """Return the names and values of a panel's series at the end, but those that are none."""
        return [
            (line.named(target["legendFormat"]), line.values[0])
            for target in panel["targets"]
            for line in self._prometheus.query(self._filled(target), self._end)
            if math.isfinite(line.values[0])
        ]

    def _over_time(self, panel: Panel) -> list[tuple[str, Line]]:
        """Return the names and lines of a panel's series, but those that have no value."""
        step = max(1.0, (self._end - self._start) / POINTS)
        return [
            (line.named(target["legendFormat"]), line)
            for target in panel["targets"]
            for line in self._prometheus.query_range(
                self._filled(target), self._start, self._end, step
            )
            if any(map(math.isfinite, line.values))
        ]

    def _filled(self, target: Mapping[str, str]) -> str:
        return filled(target["expr"], self._rate_interval)

    # ---- one function for each kind of panel ----

    def _timeseries(self, axes: Axes, panel: Panel) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        colours = {
            override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
            for override in panel["fieldConfig"]["overrides"]
        }
        found = self._over_time(panel)
        self._clock(axes)
        if not found:
            return no_data(axes)
        for place, (name, line) in enumerate(found):
            colour = colours.get(name, PALETTE[place % len(PALETTE)])
            seconds = [when - self._start for when in line.times]
            axes.plot(seconds, line.values, label=name, color=colour, linewidth=1.1)
            axes.fill_between(seconds, line.values, color=colour, alpha=0.12, linewidth=0)
        for step in defaults.get("thresholds", {}).get("steps", [])[1:]:
            axes.axhline(step["value"], color=RED, linewidth=0.9, linestyle=(0, (4, 3)))
        if not any(value > 0 for _, line in found for value in line.values):
            axes.set_ylim(top=1)
        axes.set_ylim(0, defaults.get("max"))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        unit = defaults["unit"]
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.02, -0.11),
            ncols=2 if max(len(name) for name, _ in found) > 12 else 3,
            borderaxespad=0,
            columnspacing=1.2,
            fontsize=7,
        )

    def _stat(self, axes: Axes, panel: Panel) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        axes.set_axis_off()
        found = self._now(panel)
        if not found:
            return no_data(axes)
        value = found[0][1]
        steps = defaults["thresholds"]["steps"]
        colour = [s["color"] for s in steps if s["value"] is None or value >= s["value"]][-1]
        number = shown(value, defaults["unit"])
        axes.text(0.5, 0.5, number, fontsize=19, color=colour, ha="center", va="center")

    def _states(self, axes: Axes, panel: Panel) -> None:
        named = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
        states = [(each["text"], each["color"]) for each in named.values()]
        found = self._over_time(panel)
        self._clock(axes)
        axes.grid(visible=False)
        if not found:
            return no_data(axes)
        length = self._end - self._start
        for place, (_, line) in enumerate(found):
            for value, begin, end in _runs(line):
                text, colour = states[int(value)]
                left = begin - self._start
                axes.barh(place, end - begin, left=left, height=0.8, color=colour, alpha=0.85)
                if end - begin > SHOWN_STATE * length:
                    middle = left + (end - begin) / 2
                    axes.text(middle, place, text, ha="center", va="center", color=PAGE)
        axes.set_yticks(range(len(found)), [name for name, _ in found])
        axes.legend(
            handles=[Patch(color=colour, label=text) for text, colour in states],
            loc="upper left",
            bbox_to_anchor=(-0.005, -0.26),
            ncols=len(states),
            borderaxespad=0,
            fontsize=7,
        )

    def _bars(self, axes: Axes, panel: Panel) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        found = self._now(panel)
        axes.grid(visible=False)
        axes.set_xticks([])
        if not found:
            return no_data(axes)
        names, values = [name for name, _ in found], [value for _, value in found]
        axes.barh(names, values, height=0.72, color=defaults["color"]["fixedColor"], alpha=0.9)
        for place, value in enumerate(values):
            text = shown(value, defaults["unit"])
            axes.text(value + max(values) * 0.006, place, text, va="center", color=BLUE, fontsize=8)
        axes.set_xlim(0, max(values) * 1.08 or 1)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.tick_params(axis="y", labelcolor=TEXT)

    def _clock(self, axes: Axes) -> None:
        axes.set_xlim(0, self._end - self._start)
        axes.xaxis.set_major_locator(
            MaxNLocator(6, steps=[1, 1.5, 3, 6], integer=True, prune="upper")
        )
        axes.xaxis.set_major_formatter(FuncFormatter(since_start))


def _runs(line: Line) -> list[tuple[float, float, float]]:
    """Return the values of a line and from when to when each holds."""
    runs: list[tuple[float, float, float]] = []
    for value, begin, end in zip(line.values, line.times, line.times[1:], strict=False):
        if runs and runs[-1][0] == value and runs[-1][2] == begin:
            runs[-1] = (value, runs[-1][1], end)
        else:
            runs.append((value, begin, end))
    return runs


def write(
    prometheus: Prometheus, path: Path, start: float, end: float, rate_interval: str = "1m"
) -> None:
    """Write the picture as SVG, in which texts are texts, without a date."""
    with mpl.rc_context(STYLE):
        figure = Picture(prometheus, start, end, rate_interval).figure()
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    path.write_text(re.sub(r"(?<![>\d.])\d+\.\d{2,}", _rounded, drawn.getvalue()))


def _rounded(number: re.Match[str]) -> str:
    """Return a coordinate to a tenth of a point, and what is less than one, as an opacity is."""
    value = float(number[0])
    return f"{value:.1f}" if value >= 1 else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture of the last minutes."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.picture", description=__doc__)
    parser.add_argument("url", help="of a Prometheus")
    parser.add_argument("out", type=Path, help="the SVG")
    parser.add_argument("--minutes", type=float, default=30.0, help="how far back")
    parser.add_argument("--rate-interval", default="1m", help="four scrapes or more")
    chosen = parser.parse_args(arguments)
    end = time.time()
    start = end - chosen.minutes * 60
    try:
        write(Prometheus(chosen.url), chosen.out, start, end, chosen.rate_interval)
    except httpx.HTTPError as error:
        parser.error(f"no Prometheus at {chosen.url}: {error}")


if __name__ == "__main__":
    main()
