"""What must hold in a soak, and the verdict on each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_SHOWN = 20


@dataclass
class Invariant:
    """What must not be, and where it was.

    Attributes:
        is_judged: whether the soak had what it takes to see a violation.
    """

    name: str
    violations: list[str] = field(default_factory=list)
    is_judged: bool = True

    @property
    def verdict(self) -> str:
        """Return "holds", "broken" or "not judged"."""
        if self.violations:
            return "broken"
        return "holds" if self.is_judged else "not judged"

    def figures(self) -> dict[str, Any]:
        """Return what the report has of it."""
        return {
            "name": self.name,
            "value": len(self.violations),
            "verdict": self.verdict,
            "violations": self.violations[:MAX_SHOWN],
        }


def exit_code(figures: Mapping[str, Any]) -> int:
    """Return 0 if every invariant holds, 1 if one is broken, 3 if one could not be judged."""
    verdicts = {each["verdict"] for each in figures["invariants"]}
    if "broken" in verdicts:
        return 1
    return 3 if "not judged" in verdicts else 0
