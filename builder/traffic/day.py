"""The traffic of one day: how many requests arrive when, and how long they are."""

import bisect
import csv
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path

from builder.errors import InvalidArgument

HOUR_SECONDS = 3600.0
DAY_SECONDS = 24 * HOUR_SECONDS
LOG_INTERVAL_SECONDS = 300.0
SCHEDULE_ENTRY = re.compile(r"(\d+(?:\.\d+)?)@(\d{1,2}):(\d{2})", re.ASCII)
# The usual ones of access logs, to the minute: 2026-11-29T09:00, also with a blank;
# 29/Nov/2026:09:00.
TIME_STAMP = re.compile(r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2})|(\d{2}/\w{3}/\d{4}):(\d{2}:\d{2})")


@dataclass(frozen=True)
class Segment:
    """A part of the day in which the rate goes in a line from one value to another.

    Attributes:
        begin, end: in seconds from midnight.
        first_rate, last_rate: requests per second at its begin and its end.
    """

    begin: float
    end: float
    first_rate: float
    last_rate: float

    def rate(self, second: float) -> float:
        share = (second - self.begin) / (self.end - self.begin)
        return self.first_rate + share * (self.last_rate - self.first_rate)

    @property
    def requests(self) -> float:
        return (self.first_rate + self.last_rate) / 2 * (self.end - self.begin)


@dataclass(frozen=True)
class Traffic:
    """The rate of requests over a day, which is the same every day.

    Attributes:
        source: where it is from, in words.
        segments: of the whole day, in order.
    """

    source: str
    segments: tuple[Segment, ...]

    @property
    def requests(self) -> float:
        """The expected requests of the day."""
        return sum(segment.requests for segment in self.segments)

    @property
    def peak_rate(self) -> float:
        """The most requests per second."""
        return max(max(each.first_rate, each.last_rate) for each in self.segments)

    def rate(self, second: float) -> float:
        """Return the requests per second at a time of the day."""
        index = bisect.bisect_right(self.segments, second, key=lambda each: each.begin) - 1
        return self.segments[index].rate(second)

    def arrivals(self, random_numbers: random.Random) -> Iterator[float]:
        """Yield the seconds at which requests arrive: a Poisson process within the rate."""
        for segment in self.segments:
            second, peak = segment.begin, max(segment.first_rate, segment.last_rate)
            while peak and (second := second + random_numbers.expovariate(peak)) < segment.end:
                if random_numbers.random() * peak < segment.rate(second):
                    yield second


@dataclass(frozen=True)
class Lengths:
    """The lengths of prompts or of answers: a gamma distribution.

    Attributes:
        mean: in tokens.
        variation: the standard deviation divided by the mean: 0 all are equal, 1 exponential.
    """

    mean: float
    variation: float = 1.0

    def draw(self, random_numbers: random.Random) -> float:
        if not self.variation or not self.mean:
            return self.mean
        shape = self.variation**-2
        return random_numbers.gammavariate(shape, self.mean / shape)


def constant_traffic(rate: float) -> Traffic:
    """Return a day with one rate, in requests per second."""
    return Traffic("one rate", (Segment(0.0, DAY_SECONDS, rate, rate),))


def parse_schedule(text: str) -> Traffic:
    """Return the traffic of a text such as 1000@09:00,20@03:00: requests an hour, and a time.

    Raises:
        InvalidArgument: it is not such a text.
    """
    points: dict[float, float] = {}
    for entry in map(str.strip, text.split(",")):
        found = SCHEDULE_ENTRY.fullmatch(entry)
        hours, minutes = (int(found[2]), int(found[3])) if found else (24, 0)
        if found is None or hours > 23 or minutes > 59:
            raise InvalidArgument(
                f"--traffic: {entry!r} must be requests an hour at a time of the day, such as "
                "1000@09:00, or there is no such file; a URL of Prometheus is possible too."
            )
        points[hours * HOUR_SECONDS + minutes * 60] = float(found[1]) / HOUR_SECONDS
    times = sorted(points)
    before, after = times[-1] - DAY_SECONDS, times[0] + DAY_SECONDS
    around = [(before, points[times[-1]]), *((time, points[time]) for time in times)]
    around.append((after, points[times[0]]))
    segments = []
    for (begin, first), (end, last) in itertools.pairwise(around):
        whole = Segment(begin, end, first, last)
        inside = max(begin, 0.0), min(end, DAY_SECONDS)
        if inside[0] < inside[1]:
            begin, end = inside
            segments.append(Segment(begin, end, whole.rate(begin), whole.rate(end)))
    return Traffic(text, tuple(segments))


def read_traffic_file(path: Path) -> Traffic:
    """Return the traffic of a CSV file (time, requests) or of an access log's time stamps.

    Raises:
        InvalidArgument: the file has neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InvalidArgument(f"--traffic {path}: {error.strerror}.") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        rows = list(csv.reader(lines))
    except csv.Error:  # a field that is too long
        rows = []
    if any(_count(row) is not None for row in rows):
        counts = _counts(path, rows)
        source = f"{path.name}, {len(counts)} intervals"
    else:
        counts, source = _counts_of_log(path, lines)
    return intervals(source, counts)


def intervals(source: str, counts: Sequence[tuple[float, float]]) -> Traffic:
    """Return the traffic of (begin in seconds, requests) pairs of one day, in order.

    The last interval ends with the day; what is before the first one has no requests.
    """
    ends = [*(begin for begin, _ in counts[1:]), DAY_SECONDS]
    segments = [Segment(0.0, counts[0][0], 0.0, 0.0)] if counts[0][0] else []
    for (begin, requests), end in zip(counts, ends, strict=True):
        rate = requests / (end - begin)
        segments.append(Segment(begin, end, rate, rate))
    return Traffic(source, tuple(segments))


def _counts(path: Path, rows: Sequence[Sequence[str]]) -> list[tuple[float, float]]:
    """Return the intervals of a CSV file, whose times are those of one day."""
    counts: list[tuple[datetime, float]] = []
    for number, row in enumerate(rows, start=1):
        count = _count(row)
        if count is not None:
            counts.append(count)
        elif number > 1 or any(character.isdigit() for cell in row for character in cell):
            raise InvalidArgument(
                f"--traffic {path}: line {number} is {','.join(row)!r}; it must be a time (09:00) "
                "and the requests from then to the next time."
            )
    moments = [moment for moment, _ in counts]
    is_one_day = len({moment.date() for moment in moments}) == 1
    if not is_one_day or moments != sorted(set(moments)):
        raise InvalidArgument(f"--traffic {path}: the times must be of one day, and go up.")
    return [(_second_of_day(moment), requests) for moment, requests in counts]


def _count(row: Sequence[str]) -> tuple[datetime, float] | None:
    """Parse a time (09:00, 9:00:30, or a date and a time) and the requests; None if it is not."""
    if len(row) != 2:
        return None
    time = row[0].strip()
    try:
        padded = f"0{time}" if time[1:2] == ":" else time
        moment = datetime.fromisoformat(padded if "-" in time else f"2000-01-01T{padded}")
        requests = float(row[1])
    except ValueError:
        return None
    return (moment.replace(tzinfo=None), requests) if 0 <= requests < inf else None


def _counts_of_log(path: Path, lines: Iterable[str]) -> tuple[list[tuple[float, float]], str]:
    """Return the intervals of the day with the most requests, and what they are."""
    days: dict[str, Counter[int]] = {}
    for line in lines:
        if (found := TIME_STAMP.search(line)) is not None:
            day, time = (found[1], found[2]) if found[1] else (found[3], found[4])
            hours, minutes = map(int, time.split(":")[:2])
            if hours > 23 or minutes > 59:
                continue
            second = hours * HOUR_SECONDS + minutes * 60
            days.setdefault(day, Counter())[int(second // LOG_INTERVAL_SECONDS)] += 1
    if not days:
        raise InvalidArgument(
            f"--traffic {path}: it is neither a CSV file with a time and requests in each line, "
            "nor a log with time stamps such as 2026-11-29T09:00:01."
        )
    day, counts = max(days.items(), key=lambda each: each[1].total())
    number = int(DAY_SECONDS / LOG_INTERVAL_SECONDS)
    source = f"{path.name}, {day}"
    if len(days) > 1:
        source += f", the busiest of {len(days)} days"
    return [(i * LOG_INTERVAL_SECONDS, float(counts[i])) for i in range(number)], source


def _second_of_day(moment: datetime) -> float:
    return (
        moment.hour * HOUR_SECONDS + moment.minute * 60 + moment.second + moment.microsecond / 1e6
    )
