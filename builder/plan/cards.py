"""Runpod's GPUs: what they have and what they cost, by `cards.json`, which has its sources."""

import json
from dataclasses import dataclass
from pathlib import Path

from builder.errors import InvalidArgument

DATA = Path(__file__).with_name("cards.json")
MIB = 1 << 20
COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Card:
    """One row of Runpod's table: cards that cost the same.

    Attributes:
        pool: Runpod's name of it, as an endpoint's configuration has it.
        name: the cards in it.
        memory_mib: of the smallest.
        bandwidth_gb_per_second: of the slowest one's memory.
        dollars_per_second: of a flex worker with one of them, None where it is not known.
        has_fp8: whether all of them calculate in FP8.
    """

    pool: str
    name: str
    memory_mib: int
    bandwidth_gb_per_second: float
    dollars_per_second: float | None
    has_fp8: bool

    @property
    def names(self) -> list[str]:
        """Each card's own, in lower case."""
        return self.name.lower().split(", ")

    @property
    def memory_bytes(self) -> int:
        """What nvidia-smi shows."""
        return self.memory_mib * MIB


@dataclass(frozen=True)
class Table:
    """All cards, and of when they are."""

    date: str
    cards: tuple[Card, ...]


def table() -> Table:
    """Read the data file."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    return Table(data["date"], tuple(Card(**card) for card in data["cards"]))


def chosen(cards: tuple[Card, ...], wanted: str) -> tuple[Card, ...]:
    """Return the cards of a pool or with a name, such as ADA_48_PRO, H100, 4090 or "6000 Ada".

    Raises:
        InvalidArgument: there is none.
    """
    words = set(wanted.lower().replace("rtx", "").split())
    found = tuple(card for card in cards if wanted.lower() == card.pool.lower()) or tuple(
        card for card in cards if words and any(words <= set(name.split()) for name in card.names)
    )
    if not found:
        names = "; ".join(f"{card.pool} ({card.name})" for card in cards)
        raise InvalidArgument(f"--gpu {wanted!r}: no such card. There are {names}.")
    return found
