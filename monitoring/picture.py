"""Draws the dashboard from the data of a Prometheus server, without Grafana."""

import argparse
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import httpx
from matplotlib import style, ticker
from matplotlib.figure import Figure

PANELS = json.loads(Path(__file__).with_name("dashboard.json").read_text())["panels"]
PALETTE = ("#73BF69", "#F2CC0C", "#5794F2", "#FF9830", "#F2495C", "#B877D9")
COLUMN_INCHES, ROW_INCHES = 0.52, 0.32
# Left of a plot and below it.
MARGIN_INCHES = {"timeseries": (0.6, 0.3), "stat": (0.1, 0.05), "bargauge": (1.9, 0.05)}
STYLE: Any = {"axes.facecolor": "#181b1f", "axes.edgecolor": "#2a2e34", "axes.grid": True}
STYLE |= {"axes.axisbelow": True, "font.size": 8, "grid.color": "#2a2e34", "legend.fontsize": 7}
STYLE |= {"legend.edgecolor": "none", "savefig.facecolor": "#111217"}
Lines = list[tuple[str, list[float], list[float]]]  # name, seconds since the start, values


def query(url: str, panel: Any, start: float, end: float) -> Lines:
    """Query a panel's expressions; series without a finite value are left out."""
    lines: Lines = []
    for target in panel["targets"]:
        expression = re.sub(r"\$(job|endpoint|worker)", ".*", target["expr"])
        expression = expression.replace("$__rate_interval", "1m")
        parameters: Any = {
            "query": expression,
            "start": start,
            "end": end,
            "step": (end - start) / 150,
        }
        response = httpx.get(f"{url}/api/v1/query_range", params=parameters, timeout=60)
        response.raise_for_status()
        for series in response.json()["data"]["result"]:
            name = target["legendFormat"]
            for label, value in series["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            times, values = ([float(point[n]) for point in series["values"]] for n in (0, 1))
            if any(map(math.isfinite, values)):
                lines.append((name, [moment - start for moment in times], values))
    return lines


def with_unit(value: float, unit: str) -> str:
    if unit == "s" and 0 < value < 1:
        return f"{value * 1000:.3g} ms"
    value = value * 100 if unit == "percentunit" else value
    number = f"{value / 1000:.3g} K" if value >= 1000 else f"{value:.3g}"
    return number + {"percentunit": " %", "s": " s", "reqps": " /s"}.get(unit, "")


def draw_panel(axes: Any, panel: Any, lines: Lines) -> None:
    """Draw the lines in the form of the panel's type."""
    defaults, overrides = (panel["fieldConfig"][name] for name in ("defaults", "overrides"))
    unit, steps = defaults.get("unit", ""), defaults.get("thresholds", {}).get("steps", [])
    if not lines:
        axes.set(xticks=[], yticks=[], xlim=(0, 1))
        axes.text(0.5, 0.5, "No data", ha="center", va="center")
    elif panel["type"] == "stat":
        value = lines[0][2][-1]
        colour = [s["color"] for s in steps if s["value"] is None or value >= s["value"]][-1]
        axes.set(xticks=[], yticks=[], xlim=(0, 1))
        axes.text(0.5, 0.5, with_unit(value, unit), color=colour, size=16, ha="center", va="center")
    elif panel["type"] == "bargauge":
        last = sorted((values[-1], name) for name, _, values in lines)
        bars = axes.barh([name for _, name in last], [value for value, _ in last], color=PALETTE[2])
        axes.bar_label(bars, [f" {with_unit(value, unit)}" for value, _ in last])
        axes.set(xticks=[], xlim=(0, 1.08 * last[-1][0]))
    elif panel["type"] == "state-timeline":
        states = defaults["mappings"][0]["options"]
        for name, times, values in lines:
            for begin, end, value in zip(times, times[1:], values, strict=False):
                axes.barh(name, end - begin, left=begin, color=states[f"{value:.0f}"]["color"])
        for state in states.values():
            axes.barh(lines[0][0], 0, color=state["color"], label=state["text"])
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.3), ncols=len(states))
    else:
        fixed = {o["matcher"]["options"]: o["properties"][0]["value"] for o in overrides}
        for (name, times, values), colour in zip(lines, PALETTE * 5, strict=False):
            colour = fixed.get(name, {}).get("fixedColor", colour)
            axes.plot(times, values, color=colour, linewidth=1.1, label=name)
            axes.fill_between(times, values, color=colour, alpha=0.12, linewidth=0)
        for limit in steps[1:]:
            axes.axhline(limit["value"], color=PALETTE[4], linewidth=0.9, linestyle="--")
        axes.set_ylim(0, defaults.get("max") or 1.25 * axes.get_ylim()[1] or 1)
        axes.yaxis.set_major_locator(ticker.MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: with_unit(value, unit))
        axes.legend(loc="upper left", ncols=2 if len(lines) > 3 else 3, handlelength=1)


def draw(url: str, start: float, end: float) -> Figure:
    """Draw each panel at its position in Grafana's grid of 24 columns."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in PANELS)
    width, height = 24 * COLUMN_INCHES, rows * ROW_INCHES
    figure = Figure(figsize=(width, height))
    for panel in PANELS:
        x, y, columns, rows = (panel["gridPos"][name] for name in "xywh")
        x, y = x * COLUMN_INCHES, height - (y + rows) * ROW_INCHES
        if panel["type"] == "row":
            figure.text(0.1 / width, (y + 0.05) / height, panel["title"], size=12, weight="bold")
            continue
        left, below = MARGIN_INCHES.get(panel["type"], (1.9, 0.45))
        size = (columns * COLUMN_INCHES - left - 0.1, rows * ROW_INCHES - below - 0.32)
        corner = ((x + left) / width, (y + below) / height)
        axes = figure.add_axes((*corner, size[0] / width, size[1] / height))
        axes.set_title(panel["title"], loc="left", size=9)
        axes.set_xlim(0, end - start)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1.5, 3, 6, 10]))
        axes.xaxis.set_major_formatter(lambda s, _: f"{s // 60:.0f}:{s % 60:02.0f}")
        draw_panel(axes, panel, query(url, panel, start, end))
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="URL of Prometheus, such as http://127.0.0.1:9090")
    parser.add_argument("out", help="PNG to write, such as docs/monitoring.png")
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the time range (30)")
    options, now = parser.parse_args(), time.time()
    with style.context(["dark_background", STYLE]):
        draw(options.url, now - options.minutes * 60, now).savefig(options.out, dpi=90)
