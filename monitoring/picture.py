"""Picture of the dashboard, from what a Prometheus has recorded, without a Grafana.

python monitoring/picture.py http://127.0.0.1:9090 docs/monitoring.png --minutes 5
"""

import argparse
import json
import math
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
from matplotlib import style, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

PANELS = json.loads(Path(__file__).with_name("dashboard.json").read_text())["panels"]
PALETTE = ("#73BF69", "#F2CC0C", "#5794F2", "#FF9830", "#F2495C", "#B877D9")
STYLE: Any = {"axes.facecolor": "#181b1f", "axes.grid": True, "axes.titlelocation": "left"}
STYLE |= {"axes.titlesize": 8, "font.size": 7, "grid.color": "#2a2e34", "legend.frameon": False}
STYLE |= {"legend.fontsize": 6, "savefig.facecolor": "#111217"}
Lines = list[tuple[str, list[float], list[float]]]  # name, seconds since the start, values


def query(url: str, panel: dict[str, Any], start: float, end: float, interval: str) -> Lines:
    """Ask for a panel's expressions; series without a finite value are left out."""
    lines: Lines = []
    for target in panel["targets"]:
        expression = target["expr"].replace("$__rate_interval", interval)
        for variable in ("job", "endpoint", "worker"):
            expression = expression.replace(f"${variable}", ".*")
        step = max(1, (end - start) / 150)
        parameters = {"query": expression, "start": start, "end": end, "step": step}
        response = httpx.get(f"{url}/api/v1/query_range", params=parameters).raise_for_status()
        for series in response.json()["data"]["result"]:
            name = target["legendFormat"]
            for label, value in series["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            times, values = ([float(point[n]) for point in series["values"]] for n in (0, 1))
            if any(map(math.isfinite, values)):
                lines.append((name, [moment - start for moment in times], values))
    return lines


def with_unit(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and 0 < value < 1:
        return f"{value * 1000:.3g} ms"
    number = f"{value / 1000:.3g} K" if value >= 1000 else f"{value:.3g}"
    return number + {"s": " s", "reqps": " req/s"}.get(unit, "")


def draw_panel(axes: Axes, panel: dict[str, Any], lines: Lines) -> None:
    """Draw the lines as the panel's type has them."""
    defaults = panel["fieldConfig"]["defaults"]
    unit, steps = defaults.get("unit", ""), defaults.get("thresholds", {}).get("steps", [])
    if panel["type"] == "stat":
        value = lines[0][2][-1]
        colour = [s["color"] for s in steps if s["value"] is None or value >= s["value"]][-1]
        axes.text(0.5, 0.5, with_unit(value, unit), color=colour, size=16, ha="center", va="center")
    elif panel["type"] == "bargauge":
        last = sorted((values[-1], name) for name, _, values in lines)
        bars = axes.barh([name for _, name in last], [value for value, _ in last], color=PALETTE[2])
        axes.bar_label(bars, [f" {with_unit(value, unit)}" for value, _ in last])
    elif panel["type"] == "state-timeline":
        states = defaults["mappings"][0]["options"]
        for name, times, values in lines:
            for begin, end, value in zip(times, times[1:], values, strict=False):
                axes.barh(name, end - begin, left=begin, color=states[f"{value:.0f}"]["color"])
        legend = [Patch(color=state["color"], label=state["text"]) for state in states.values()]
        axes.legend(handles=legend, loc="upper left", bbox_to_anchor=(0, -0.15), ncols=len(states))
    else:
        overrides = panel["fieldConfig"]["overrides"]
        fixed = {o["matcher"]["options"]: o["properties"][0]["value"] for o in overrides}
        for (name, times, values), colour in zip(lines, cycle(PALETTE), strict=False):
            colour = fixed.get(name, {}).get("fixedColor", colour)
            axes.plot(times, values, color=colour, linewidth=1.1, label=name)
            axes.fill_between(times, values, color=colour, alpha=0.12, linewidth=0)
        for limit in steps[1:]:
            axes.axhline(limit["value"], color=PALETTE[4], linewidth=0.9, linestyle="--")
        axes.set_ylim(0, defaults.get("max") or 1.25 * axes.get_ylim()[1] or 1)
        axes.yaxis.set_major_locator(ticker.MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: with_unit(value, unit))
        axes.legend(loc="upper left", ncols=2 if len(lines) > 3 else 3, handlelength=1)


def draw(url: str, start: float, end: float, interval: str) -> Figure:
    """Each panel in its place of Grafana's grid of 24 columns."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in PANELS)
    figure = Figure(figsize=(13, rows * 0.34), layout="constrained")
    grid = figure.add_gridspec(rows, 24)
    for panel in PANELS:
        x, y, width, height = (panel["gridPos"][name] for name in "xywh")
        axes = figure.add_subplot(grid[y : y + height, x : x + width])
        if panel["type"] == "row":
            axes.set_axis_off()
            axes.text(0, 0, panel["title"], size=11, weight="bold")
            continue
        axes.set_title(panel["title"])
        lines = query(url, panel, start, end, interval)
        if lines:
            draw_panel(axes, panel, lines)
        else:
            axes.text(0.5, 0.5, "No data", ha="center", transform=axes.transAxes)
        if panel["type"] in ("timeseries", "state-timeline"):
            axes.set_xlim(0, end - start)
            axes.xaxis.set_major_formatter(lambda s, _: f"{s // 60:.0f}:{s % 60:02.0f}")
        else:
            axes.set_xticks([])
        if not lines or panel["type"] == "stat":
            axes.set_yticks([])
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Picture of the dashboard from a Prometheus.")
    parser.add_argument("url", help="of a Prometheus")
    parser.add_argument("out", help="the PNG")
    parser.add_argument("--minutes", type=float, default=30.0, help="how far back (30)")
    parser.add_argument("--rate-interval", default="1m", help="four scrapes or more (1m)")
    options = parser.parse_args()
    now = time.time()
    with style.context(["dark_background", STYLE]):
        figure = draw(options.url, now - options.minutes * 60, now, options.rate_interval)
        figure.savefig(options.out, dpi=100)
