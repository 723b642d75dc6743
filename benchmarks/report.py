"""Tables of ratios, each beside its target where there is one, as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """The least that a ratio should be, or the most."""

    ratio: float
    at_most: bool

    def met(self, ratio: float) -> bool:
        """Whether a ratio is as good as that."""
        return ratio <= self.ratio if self.at_most else ratio >= self.ratio

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.ratio:g}"


def at_least(ratio: float) -> Target:
    """More is better."""
    return Target(ratio, at_most=False)


def at_most(ratio: float) -> Target:
    """Less is better."""
    return Target(ratio, at_most=True)


@dataclass(frozen=True)
class Row:
    """What is compared, of the base and of the other; the ratio is other / base."""

    what: str
    base: float
    other: float
    target: Target | None = None

    @property
    def ratio(self) -> float:
        """How many times the base's figure the other's is."""
        return self.other / self.base


@dataclass(frozen=True)
class Table:
    """Two things compared.

    Attributes:
        base: the name of what the other is compared with.
        other: its name.
        rows: each one figure.
        note: what one must know to read it.
    """

    base: str
    other: str
    rows: Sequence[Row]
    note: str = ""


def markdown(table: Table) -> str:
    """Return the table; the columns of targets only if a row has one."""
    aimed = any(row.target for row in table.rows)
    head = ["what", table.base, table.other, "ratio", *(["target", "met"] if aimed else [])]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(row)[: len(head)]) for row in table.rows]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    cells = [row.what, f"{row.base:.4g}", f"{row.other:.4g}", f"{row.ratio:.3f}"]
    if row.target is None:
        return [*cells, "", ""]
    return [*cells, str(row.target), "yes" if row.target.met(row.ratio) else "no"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
