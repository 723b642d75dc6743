"""The kinds of a Grafana panel that the dashboard has, one function for each.

The model is the one that Grafana calls classic: https://grafana.com/docs/grafana/v11.6/dashboards/build-dashboards/view-dashboard-json-model/
What is asked and shown stands in dashboard.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Panel = dict[str, Any]
Queries = Sequence[tuple[str, str]]
"""Expressions in PromQL, and what their series are called."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED, BLUE = "#73BF69", "#F2CC0C", "#F2495C", "#5794F2"
ORANGE, PURPLE, GREY = "#FF9830", "#B877D9", "#5A6270"


def timeseries(
    title: str,
    what: str,
    queries: Queries,
    unit: str,
    *,
    colours: Mapping[str, str] | None = None,
    limit: float | None = None,
    low_is_bad: bool = False,
) -> Panel:
    """Return lines over time.

    Args:
        title: in the panel's head.
        what: the help behind its "i".
        queries: one or several lines each.
        unit: one of Grafana's names for it.
        colours: by the names of lines.
        limit: where a dashed line is drawn.
        low_is_bad: whether it is below the limit that something is wrong.
    """
    custom: dict[str, Any] = {
        "drawStyle": "line",
        "fillOpacity": 12,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
    }
    defaults: dict[str, Any] = {
        "unit": unit,
        "min": 0,
        "color": {"mode": "palette-classic"},
        "custom": custom,
    }
    if unit == "percentunit":
        defaults["max"] = 1
    if limit is not None:
        custom["thresholdsStyle"] = {"mode": "dashed"}
        defaults["thresholds"] = _thresholds(limit, low_is_bad)
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in (colours or {}).items()
    ]
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel("timeseries", title, what, queries, defaults, options, overrides)


def stat(
    title: str,
    what: str,
    expression: str,
    unit: str,
    *,
    limit: float | None = None,
    low_is_bad: bool = False,
) -> Panel:
    """Return one number, green or red; the arguments are those of `timeseries`."""
    defaults = {
        "unit": unit,
        "color": {"mode": "thresholds"},
        "thresholds": _thresholds(limit, low_is_bad),
    }
    options = {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "center",
        "textMode": "value",
        "reduceOptions": _LAST,
    }
    return _panel("stat", title, what, [(expression, "")], defaults, options, instant=True)


def state_timeline(
    title: str, what: str, queries: Queries, states: Sequence[tuple[str, str]]
) -> Panel:
    """Return bands over time; a series' value is the place of its state, and of its colour."""
    named = {
        str(place): {"text": text, "color": colour, "index": place}
        for place, (text, colour) in enumerate(states)
    }
    defaults = {
        "color": {"mode": "thresholds"},
        "custom": {"fillOpacity": 85, "lineWidth": 0},
        "mappings": [{"type": "value", "options": named}],
    }
    options = {
        "alignValue": "center",
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "auto",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return _panel("state-timeline", title, what, queries, defaults, options)


def bars(title: str, what: str, queries: Queries, unit: str) -> Panel:
    """Return a bar for each series, as they are now."""
    defaults = {
        "unit": unit,
        "min": 0,
        "color": {"mode": "fixed", "fixedColor": BLUE},
    }
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "namePlacement": "left",
        "showUnfilled": False,
        "valueMode": "text",
        "reduceOptions": _LAST,
    }
    return _panel("bargauge", title, what, queries, defaults, options, instant=True)


def row(title: str) -> Panel:
    """Return the head of a row of panels."""
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def _panel(
    kind: str,
    title: str,
    what: str,
    queries: Queries,
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    overrides: Sequence[Mapping[str, Any]] = (),
    *,
    instant: bool = False,
) -> Panel:
    targets = [
        {
            "refId": chr(ord("A") + place),
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": expression,
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
        }
        for place, (expression, legend) in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": what,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": options,
        "targets": targets,
    }


def _thresholds(limit: float | None, low_is_bad: bool) -> dict[str, Any]:
    below, above = (RED, GREEN) if low_is_bad else (GREEN, RED)
    steps: list[dict[str, Any]] = [{"color": GREEN if limit is None else below, "value": None}]
    if limit is not None:
        steps.append({"color": above, "value": limit})
    return {"mode": "absolute", "steps": steps}
