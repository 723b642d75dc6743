"""What the soak of the HTTP front end does and when: all of it follows from the seed."""

import hashlib
import json
import random
from dataclasses import asdict, dataclass
from typing import Any

# Kinds of calls with their shares. `seconds` is how long a connection of the kind is held, at most.
KINDS: dict[str, tuple[int, float]] = {
    "stream": (10, 4),
    "plain": (6, 4),
    "tools": (3, 4),
    "keep_alive": (20, 70),  # a call, a pause, another call on the same connection
    "half_open": (12, 24),  # nothing, half a head, or half a body; the server or the client ends it
    "slow_reader": (8, 15),
    "leaves": (8, 3),
    "hostile": (6, 2),
    "oversized": (2, 2),
    "wrong_key": (3, 1),
    "rubbish": (4, 2),
    "pipelined": (3, 4),
}
MEAN_SECONDS = sum(share * held * 0.6 for share, held in KINDS.values()) / sum(
    share for share, _ in KINDS.values()
)
MAX_CALLS_PER_SECOND = 60.0
SHORT_SECONDS = 600.0
FREEZE_EVERY_SECONDS, FREEZE_SECONDS = 45.0, (2.0, 6.0)


@dataclass(frozen=True)
class Call:
    """A connection: when it begins, its kind, and numbers that decide its details."""

    at: float
    kind: str
    number: int
    share: float  # of what it holds or sends, before it stops or pauses


@dataclass(frozen=True)
class Fault:
    """Something that is done to the worker: freeze, kill_core, terminate; or a quiet point."""

    at: float
    kind: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Calls and faults in the order of their time; `at` in seconds from the beginning."""

    seconds: float
    calls: tuple[Call, ...]
    faults: tuple[Fault, ...]

    @property
    def digest(self) -> str:
        """The same for the same seed, minutes and connections."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def schedule(seed: int, minutes: float, connections: int = 200) -> Schedule:
    """Plan calls whose mean number of open connections is `connections`, and the faults."""
    drawn = random.Random(f"{seed} {minutes} {connections}")
    seconds = minutes * 60
    rate = min(connections / MEAN_SECONDS, MAX_CALLS_PER_SECOND)
    kinds, shares = list(KINDS), [share for share, _ in KINDS.values()]
    calls, at = [], 0.0
    while (at := at + drawn.expovariate(rate)) < seconds:
        [kind] = drawn.choices(kinds, shares)
        calls.append(Call(round(at, 3), kind, len(calls), round(drawn.uniform(0.2, 1.0), 3)))
    return Schedule(seconds, tuple(calls), tuple(_faults(drawn, seconds)))


def _faults(drawn: random.Random, seconds: float) -> list[Fault]:
    """The core is killed, and later SIGTERM comes; freezes all the time.

    Both come early, so that the last worker has a life that is long enough to judge its memory.
    """
    first, second = (0.1, 0.3) if seconds <= SHORT_SECONDS else (0.08, 0.16)
    ends = [
        Fault(round(seconds * drawn.uniform(0.95, 1.05) * first, 3), "kill_core"),
        Fault(round(seconds * drawn.uniform(0.95, 1.05) * second, 3), "terminate"),
    ]
    freezes, at = [], 0.0
    while (at := at + FREEZE_EVERY_SECONDS * drawn.uniform(0.6, 1.4)) < seconds - 15:
        freezes.append(Fault(round(at, 3), "freeze", round(drawn.uniform(*FREEZE_SECONDS), 3)))
    every = max(20.0, min(seconds / 12, 120.0))
    quiet = [Fault(every * number, "quiet") for number in range(1, int(seconds / every))]
    return sorted([*ends, *freezes, *quiet], key=lambda fault: fault.at)


def hostile_bodies(prompt: str) -> list[tuple[Any, int]]:
    """Return bodies for /v1/chat/completions and the status of each answer."""

    def chat(**fields: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 8, **fields}

    words = [f"word {number}" for number in range(20_000)]
    deep = {"type": "json_schema", "json_schema": {"name": "deep", "schema": "[" * 50_000}}
    return [
        (b"{" + prompt.encode(), 400),
        (b"[" * 50_000, 400),
        (b"\xff\xfe" + prompt.encode(), 400),
        (b'{"messages": [], "messages": NaN}', 400),
        (chat(temprature=1), 400),
        (chat(max_tokens=-1), 400),
        (chat(n=16_384, temperature=1), 400),
        (chat(stop=words), 400),
        (chat(structured_outputs={"json": {"$ref": "#"}}), 400),
        (chat(structured_outputs={"json": {"type": "string", "minLength": -1}}), 400),
        (chat(structured_outputs={"json": {"enum": words}}), 400),
        (chat(structured_outputs={"regex": "("}), 400),
        (chat(response_format=deep), 400),
        (chat(structured_outputs={"grammar": "root ::= ("}), 400),
        (chat(model="no/such-model"), 404),
        (chat(messages=[{"role": "user", "content": prompt}] * 10_000), 400),
        (chat(metadata=[[0]] * 200_000), 413),
    ]
