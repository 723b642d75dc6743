"""Tables of ratios with their targets, and the folder of results."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import FIGURES, Figures
from benchmarks.machine import one_line

RESULTS = Path(__file__).parent / "results"
COMPARED = (
    "output_tokens_per_second",
    "ttft_p50_seconds",
    "ttft_p99_seconds",
    "itl_p50_seconds",
    "cpu_ms_per_token",
)


@dataclass(frozen=True)
class Target:
    """A bound of a ratio."""

    ratio: float
    is_maximum: bool = False

    def cells(self, ratio: float) -> list[str]:
        """The bound, and whether it is met."""
        met = ratio <= self.ratio if self.is_maximum else ratio >= self.ratio
        return [f"{'≤' if self.is_maximum else '≥'} {self.ratio:g}", "yes" if met else "no"]


@dataclass(frozen=True)
class Row:
    """A figure of two sides; the ratio is other / base."""

    label: str
    base: float
    other: float
    target: Target | None = None

    def cells(self) -> list[str]:
        """Label, both figures, ratio, target and whether it is met."""
        ratio = self.other / self.base if self.base else None
        cells = [self.label, _number(self.base), _number(self.other)]
        cells.append("–" if ratio is None else f"{ratio:.3f}")
        return cells + (["", ""] if not self.target or ratio is None else self.target.cells(ratio))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class Bound:
    """A figure that has an upper bound by itself."""

    label: str
    value: float
    maximum: float

    def cells(self) -> list[str]:
        """Label, figure, bound and whether it holds."""
        holds = "yes" if self.value <= self.maximum else "no"
        return [self.label, _number(self.value), f"≤ {self.maximum:g}", holds]


@dataclass(frozen=True)
class Bounds:
    """Figures of one side with their bounds."""

    side: str
    rows: Sequence[Bound]

    def markdown(self) -> str:
        """The table."""
        lines = [["figure", self.side, "target", "met"], ["---"] * 4]
        lines += [row.cells() for row in self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


@dataclass(frozen=True)
class Table:
    """Two sides compared, with a note that says how to read it."""

    base: str
    other: str
    rows: Sequence[Row]
    note: str = ""

    def markdown(self) -> str:
        """The table; the columns of targets only where a row has one."""
        has_targets = any(row.target for row in self.rows)
        head = ["figure", self.base, self.other, "ratio"]
        head += ["target", "met"] if has_targets else []
        lines = [head, ["---"] * len(head), *(row.cells()[: len(head)] for row in self.rows)]
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if self.rows else ""
        return "\n\n".join(part for part in (text, self.note) if part) + "\n"


def load_rows(
    base: Mapping[str, Figures],
    other: Mapping[str, Figures],
    figures: Iterable[str] = COMPARED,
    targets: Mapping[tuple[str, str], Target] | None = None,
) -> list[Row]:
    """Rows of the figures at each level of concurrency that both sides have in the JSON."""
    return [
        Row(
            f"{FIGURES[figure]}, concurrency {level}",
            base[level][figure],
            other[level][figure],
            (targets or {}).get((figure, level)),
        )
        for figure in figures
        for level in base
        if level in other
    ]


# ---- the folder of results ----


def save(folder: Path, name: str, device: str, machine: Mapping[str, Any], measured: Any) -> None:
    """Write a case's figures, with its device and machine."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {"device": device, "machine": machine, "measured": measured}
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def write_page(folder: Path, cases: Mapping[str, Any]) -> str:
    """Write README.md with the tables of all results in the folder, and return it."""
    parts = [
        "# Results\n",
        "Written by `make bench`. The ratios count: absolute times vary from run to run.\n",
    ]
    for name, case in cases.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            continue
        result = json.loads(path.read_text())
        parts.append(f"## {case.title}\n")
        parts.append(f"`{name}`, device {result['device']}: {one_line(result['machine'])}.\n")
        parts += [table.markdown() for table in case.tables(result["measured"])]
        if (folder / f"{name}.png").is_file():
            parts.append(f"![{case.title}]({name}.png)\n")
    text = "\n".join(parts)
    (folder / "README.md").write_text(text)
    return text
