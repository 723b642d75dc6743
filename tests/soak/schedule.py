"""What a soak does and when, from a seed: the same seed and length give the same bytes."""

import hashlib
import json
import math
import random
from dataclasses import asdict, dataclass

JOB_KINDS = {  # and their weights
    "stream": 30,
    "openai stream": 20,
    "plain": 15,
    "tools": 8,
    "batch": 6,
    "cancel early": 4,
    "cancel late": 5,
    "oversized": 5,
    "hostile": 7,
}
LIGHT_FAULTS = (  # a job outlives them all
    "stream 500",
    "stream 429",
    "stream slow",
    "stream reset",
    "stream accepted, then reset",
    "stream accepted, then cut",
    "done 500",
    "done 429",
    "done slow",
    "done reset",
    "done accepted, then reset",
    "done accepted, then cut",
    "ping 500",
    "ping 429",
    "ping slow",
    "ping reset",
    "take 500",
    "take 429",
    "take slow",
    "take reset",
    "take cut",
    "take garbage",
    "stop 500",
    "stop slow",
    "stop reset",
    "stop late",
    "stop garbage",
    "volume gone",
    "volume full",
    "duplicate id",
    "freeze",
    "clock jump",
)
RESTARTS = (  # the worker ends, and another one takes its place
    "core killed",
    "SIGTERM in a stream",
    "SIGTERM at the start",
    "SIGTERM in a drain",
    "SIGTERM in a prefill",
    "SIGTERM when idle",
)
VOLUMES = ("there", "gone", "full")  # for the next worker
SETTLE_SECONDS = 15.0
SHORT_LIGHT_INTERVAL_SECONDS, LIGHT_INTERVAL_SECONDS = (3.0, 5.5), (4.0, 9.0)
SHORT_MINUTES = 10.0  # a soak of up to this has restarts, then a quiet point, then one life
SHORT_FIRST_RESTART_SECONDS = 5.0
SHORT_RESTART_SECONDS, RESTART_SECONDS = 20.0, 70.0
SHORT_LIFE_SECONDS, SHORT_LIFE_SHARE = 100.0, 0.5
EARLY_SHARE, LATE_SHARE = 0.25, 0.08
SHORT_QUIET_SECONDS, QUIET_SECONDS = 35.0, 300.0
LONG_FREEZE_MINUTES = 30.0  # from this on a soak has freezes of a minute
LONG_FREEZE_SECONDS, LONG_FREEZE_INTERVAL_SECONDS = 60.0, 900.0


@dataclass(frozen=True)
class Event:
    """One thing that happens.

    Attributes:
        at: seconds from the start; they stand still while a quiet point waits for the last job.
        what: "job", "fault" or "quiet".
        kind: of the job or fault.
        number: of the event; it selects among the variants of a kind.
        value: seconds, or the offset of a clock.
        volume: the network volume of the next worker, where the kind is a restart.
    """

    at: float
    what: str
    kind: str
    number: int
    value: float = 0.0
    volume: str = ""


@dataclass(frozen=True)
class Schedule:
    """The events of a soak in their order."""

    seed: int
    minutes: float
    events: tuple[Event, ...]

    def text(self) -> str:
        return "".join(json.dumps(asdict(event), sort_keys=True) + "\n" for event in self.events)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]


def schedule(seed: int, minutes: float, jobs_per_second: float = 1.0) -> Schedule:
    """Return the schedule of a seed."""
    source = random.Random(f"{seed} {minutes:g} {jobs_per_second:g}")
    end = minutes * 60
    parts = [
        _jobs(source, end, jobs_per_second),
        _light_faults(source, end),
        _restarts(source, end),
        _long_freezes(end),
        _quiet_points(end),
    ]
    events = sorted((event for part in parts for event in part), key=lambda each: each.at)
    return Schedule(seed, minutes, tuple(events))


def _jobs(source: random.Random, end: float, per_second: float) -> list[Event]:
    events, at = [], 0.0
    kinds, weights = list(JOB_KINDS), list(JOB_KINDS.values())
    while (at := at + source.expovariate(per_second)) < end:
        kind = source.choices(kinds, weights)[0]
        value = round(source.uniform(0.0, 0.1 if kind == "cancel early" else 2.0), 3)
        events.append(Event(round(at, 3), "job", kind, len(events), value))
    return events


def _light_faults(source: random.Random, end: float) -> list[Event]:
    """Every kind comes once before one comes again."""
    interval = SHORT_LIGHT_INTERVAL_SECONDS if _is_short(end) else LIGHT_INTERVAL_SECONDS
    events, at, left = [], SETTLE_SECONDS, []
    while (at := at + source.uniform(*interval)) < end - SETTLE_SECONDS:
        left = left or source.sample(LIGHT_FAULTS, len(LIGHT_FAULTS))
        kind = left.pop()
        route, _, what = kind.partition(" ")
        value = {
            "freeze": source.uniform(3, 10),
            "slow": source.uniform(1, 4),
            "volume": source.uniform(2, 8),
            "clock": source.choice((-3600.0, 0.0, 3600.0)),
        }.get(what if what == "slow" else route, 0.0)
        events.append(Event(round(at, 3), "fault", kind, len(events), round(value, 3)))
    return events


def _restarts(source: random.Random, end: float) -> list[Event]:
    if _is_short(end):
        times = _every(SHORT_RESTART_SECONDS, SHORT_FIRST_RESTART_SECONDS, _short_life(end))
    else:
        early, late = end * EARLY_SHARE, end * (1 - LATE_SHARE)
        times = _every(RESTART_SECONDS, SETTLE_SECONDS, early)
        times += _every(RESTART_SECONDS, late, end - RESTART_SECONDS)
    kinds, volumes = list(RESTARTS), list(VOLUMES)
    source.shuffle(kinds)
    source.shuffle(volumes)
    events = []
    for index, at in enumerate(times):
        kind = kinds[index % len(kinds)]
        if kind == "SIGTERM when idle":
            events.append(Event(at, "quiet", "", index))
        value = round(source.uniform(0.5, 8.0), 3)
        events.append(Event(at, "fault", kind, index, value, volumes[index % len(volumes)]))
    return events


def _quiet_points(end: float) -> list[Event]:
    """The first one of a short soak waits for the worker that lives to the end."""
    if _is_short(end):
        times = _every(SHORT_QUIET_SECONDS, _short_life(end), end)
    else:
        times = _every(QUIET_SECONDS, QUIET_SECONDS, end)
    return [Event(at, "quiet", "", index) for index, at in enumerate([*times, end])]


def _long_freezes(end: float) -> list[Event]:
    """As the platform freezes a worker between two requests; in the longest life."""
    if end < LONG_FREEZE_MINUTES * 60:
        return []
    times = _every(LONG_FREEZE_INTERVAL_SECONDS, end * 0.4, end * 0.9)
    return [
        Event(at, "fault", "freeze", index, LONG_FREEZE_SECONDS) for index, at in enumerate(times)
    ]


def _is_short(end: float) -> bool:
    return end <= SHORT_MINUTES * 60


def _short_life(end: float) -> float:
    """Return when the life of a short soak's last worker begins."""
    return max(0.0, end - max(SHORT_LIFE_SECONDS, end * SHORT_LIFE_SHARE))


def _every(step: float, begin: float, end: float) -> list[float]:
    """Return the times from `begin` on that are before `end`."""
    return [round(begin + step * index, 3) for index in range(math.ceil((end - begin) / step))]
