"""The faults of a soak on record."""

import math
from dataclasses import dataclass


@dataclass
class Window:
    """A fault from its beginning to the end of its effect.

    Attributes:
        excuses_from: what had begun before it has to be finished.
    """

    kind: str
    began: float
    ended: float = math.inf
    excuses_from: float = -math.inf

    @property
    def is_open(self) -> bool:
        return self.ended == math.inf

    def overlaps(self, began: float, ended: float) -> bool:
        """Whether it was in effect at some time of a span."""
        return self.began <= ended and began <= self.ended
