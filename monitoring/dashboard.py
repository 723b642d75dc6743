"""The dashboard as Grafana wants it: `python -m monitoring.dashboard` writes dashboard.json."""

import json
from pathlib import Path
from typing import Any

from monitoring.panels import SOURCE, Panel, row
from monitoring.queries import VARIABLES
from monitoring.rows import ROWS

FILE = Path(__file__).with_name("dashboard.json")
COLUMNS = 24


def dashboard() -> dict[str, Any]:
    """Return the dashboard, in Grafana's classic model."""
    return {
        "uid": "llm-worker",
        "title": "LLM worker",
        "description": "Requests, tokens, engine, delivery and cold start of the workers.",
        "tags": ["llm", "runpod"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": _placed(),
    }


def _placed() -> list[Panel]:
    """Return all panels, rows from top to bottom and in each from left to right."""
    placed: list[Panel] = []
    y = 0
    for title, panels, abreast, height in ROWS:
        placed.append({**row(title), "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
        y += 1
        width = COLUMNS // abreast
        for place, panel in enumerate(panels()):
            x = place % abreast * width
            y += height if place and not x else 0
            placed.append({**panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
        y += height
    return [{"id": number, **panel} for number, panel in enumerate(placed, 1)]


def _variables() -> list[dict[str, Any]]:
    source = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
    }
    chosen = []
    for place, name in enumerate(VARIABLES):
        before = ",".join(f'{other}=~"${other}"' for other in VARIABLES[:place])
        query = f"label_values(llm_worker_engine_up{{{before}}}, {name})"
        chosen.append(
            {
                "name": name,
                "label": name.capitalize(),
                "type": "query",
                "datasource": SOURCE,
                "definition": query,
                "query": {"query": query, "refId": name, "qryType": 1},
                "refresh": 2,
                "sort": 1,
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"text": ["All"], "value": ["$__all"]},
            }
        )
    return [source, *chosen]


def text() -> str:
    """Return what dashboard.json has to be."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
