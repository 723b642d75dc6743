"""A panel in the picture: its colours, its place, its title, and how its values are shown."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from monitoring.panels import Panel

COLUMN_INCHES, LINE_INCHES, GAP_INCHES = 0.56, 0.37, 0.06
HEAD_INCHES, FOOT_INCHES, LEFT_INCHES, RIGHT_INCHES = 0.34, 0.46, 0.64, 0.16
PAGE, PANEL, EDGE, GRID, TEXT, FAINT = (
    *("#111217", "#181b1f", "#2a2e34", "#2a2e34"),
    *("#d5d6dc", "#8e929b"),
)
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": FAINT,
    "axes.spines.bottom": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAGE,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial"],
    "font.size": 7.5,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.labelcolor": TEXT,
    "path.simplify": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "monitoring",
    "text.color": TEXT,
    "xtick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.color": FAINT,
    "ytick.major.size": 0,
}


def since_start(seconds: float, _: object) -> str:
    """Name a place on the axis of time, but the first, where the other axis stands."""
    return f"{int(seconds) // 60}:{seconds % 60:02.0f}" if seconds else ""


def shown(value: float, unit: str) -> str:
    """Return a value as Grafana shows it in one of its units."""
    if unit == "percentunit":
        return f"{_short(value * 100)} %"
    if unit == "s":
        if value == 0 or value >= 60:
            return "0 s" if value == 0 else f"{_short(value / 60)} min"
        return f"{_short(value)} s" if value >= 1 else f"{_short(value * 1000)} ms"
    if unit == "reqps":
        return f"{_short(value)} req/s"
    return f"{_short(value / 1000)} K" if value >= 1000 else _short(value)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def axes_of(figure: Figure, panel: Panel) -> Axes | None:
    """Draw a panel's frame and title; return what is left of it for a plot, None for a row's."""
    width, height = figure.get_size_inches()
    at = panel["gridPos"]
    left = at["x"] * COLUMN_INCHES + GAP_INCHES
    wide = at["w"] * COLUMN_INCHES - 2 * GAP_INCHES
    high = at["h"] * LINE_INCHES - GAP_INCHES
    bottom = height - at["y"] * LINE_INCHES - high - GAP_INCHES
    if panel["type"] == "row":
        y = (bottom + high / 2) / height
        figure.text(left / width, y, panel["title"], fontsize=10.5, fontweight="bold", va="center")
        return None
    # In inches from the lower left corner, so that the corners are round.
    frame = FancyBboxPatch(
        (left, bottom),
        wide,
        high,
        boxstyle="round,pad=0,rounding_size=0.04",
        facecolor=PANEL,
        edgecolor=EDGE,
        linewidth=0.7,
        zorder=-1,
        transform=figure.dpi_scale_trans,
    )
    figure.add_artist(frame)
    title_y = (bottom + high - 0.17) / height
    figure.text((left + 0.12) / width, title_y, panel["title"], fontsize=8.5, va="center")
    margins = {
        "stat": (0.0, 0.04, 0.0),
        "bargauge": (1.75, 0.1, 0.1),
        "state-timeline": (0.95, RIGHT_INCHES, FOOT_INCHES),
    }
    before, after, below = margins.get(panel["type"], (LEFT_INCHES, RIGHT_INCHES, FOOT_INCHES))
    inside = (wide - before - after, high - HEAD_INCHES - below)
    return figure.add_axes(
        (
            (left + before) / width,
            (bottom + below) / height,
            inside[0] / width,
            inside[1] / height,
        )
    )


def no_data(axes: Axes) -> None:
    """Say that there is none."""
    axes.set_axis_off()
    at: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, "No data", fontsize=11, color=FAINT, **at)
