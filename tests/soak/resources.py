"""Memory, file descriptors, threads and orphans of a worker's processes.

One series per life of a worker: `follow` begins it, and the end of the worker's process ends it.
Memory is anonymous and shared memory of the whole process tree; pages of files are left out, for
other workers on the machine share them. A process that left the tree is found by the marker that
the worker was started with (`marker_environment`).
"""

import contextlib
import itertools
import math
import os
import statistics
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from handler.engine.processes import is_running
from tests.soak.invariants import Invariant

MARKER = "SOAK_WORKER"
WARM_UP_SHARE, MIN_WARM_UP_SECONDS, MAX_WARM_UP_SECONDS = 0.2, 30.0, 600.0
MIN_RATE_SECONDS = 600.0  # of samples after the warm-up; a shorter life has no rate per hour
MAX_PERCENT_AN_HOUR = 1.0
MIN_JUDGED_SECONDS = 60.0  # after the warm-up; a shorter life is not judged
MAX_SHORT_GROWTH_MIB = 48.0  # of a life that is too short for a rate
# asyncio's default pool starts its threads as they are needed, and keeps them.
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
BLOCKS = 24  # samples of a block are neighbours, and not independent: each counts by its median
NORMAL_95 = 1.96
POLL_INTERVAL_SECONDS = 0.2


@dataclass(frozen=True)
class Sample:
    """The tree at one moment; `seconds` since the life's beginning."""

    seconds: float
    memory_mib: float
    descriptors: int
    threads: int
    processes: int


@dataclass(frozen=True)
class Growth:
    """What became of a life's memory after the warm-up.

    Attributes:
        verdict: "flat", "growing", "uncertain" (the interval holds the limit), or "not judged":
            the life is too short.
        percent_an_hour: the slope by Theil and Sen, with its 95 % interval; None for a life that
            is too short for a rate, and is judged by what it has grown.
        grown_mib: the last fifth's median less the first fifth's.
    """

    verdict: str = "not judged"
    percent_an_hour: float | None = None
    interval: tuple[float, float] | None = None
    grown_mib: float = 0.0
    seconds: float = 0.0


@dataclass
class Life:
    """A worker process from its start to its end.

    Attributes:
        pooled_connections: how many it may keep open for later POSTs.
    """

    name: str
    process: psutil.Process
    marker: str
    began: float
    samples: list[Sample] = field(default_factory=list)
    quiet: list[Sample] = field(default_factory=list)
    open_files: list[Counter[str]] = field(default_factory=list)  # at the quiet points
    family: dict[tuple[int, float], psutil.Process] = field(default_factory=dict)
    is_ending: bool = False
    pooled_connections: int = 0

    def begin_series(self) -> None:
        """Leave out what came before: the start of the worker."""
        self.samples.clear()
        self.began = time.monotonic()

    def end_series(self) -> None:
        """Leave out what comes now: the end of the worker."""
        self.is_ending = True

    def growth(self) -> Growth:
        """Judge the memory after the warm-up."""
        return memory_growth([(each.seconds, each.memory_mib) for each in self.samples])

    def grown_counts(self, last: Sample) -> dict[str, int]:
        """Return the descriptors and threads, beyond those of pools, that are more than they were.

        That is at the first quiet point after the warm-up. A pool's threads may start at any time,
        but none ends; its connections are as many as were needed at once.
        """
        first = self.quiet[0] if self.quiet else last
        grown = {
            "descriptors": last.descriptors - first.descriptors - self.pooled_connections,
            "threads": last.threads - first.threads - POOL_THREADS,
        }
        return {name: number for name, number in grown.items() if number > 0}

    @property
    def has_judged_counts(self) -> bool:
        """Whether its quiet points are far enough apart."""
        quiet = self.quiet
        return bool(quiet) and quiet[-1].seconds - quiet[0].seconds >= MIN_JUDGED_SECONDS

    def new_files(self) -> dict[str, int]:
        """Return the kinds of open files that the last quiet point has more than the first."""
        return dict(self.open_files[-1] - self.open_files[0]) if self.open_files else {}

    def orphans(self, timeout_seconds: float = 60.0) -> list[str]:
        """Wait for the end of all of the worker's processes; return those that are left."""
        deadline = time.monotonic() + timeout_seconds
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_SECONDS)
        return left

    def _left(self) -> list[str]:
        alive = {each.pid: each for each in self.family.values() if is_running(each)}
        alive |= {each.pid: each for each in marked(self.marker)}
        return [described(each) for each in alive.values()]


class Sampler:
    """Samples the process tree of the worker that it follows; use as `with Sampler()`."""

    def __init__(self, interval_seconds: float = 5.0, pooled_connections: int = 0) -> None:
        self.lives: list[Life] = []
        self._pooled_connections = pooled_connections
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def follow(self, pid: int, marker: str, name: str = "") -> Life:
        """Begin the life of a worker that was started with `marker_environment(marker)`."""
        name = name or f"worker {len(self.lives) + 1}"
        life = Life(name, psutil.Process(pid), marker, time.monotonic())
        life.pooled_connections = self._pooled_connections
        with self._lock:
            self.lives.append(life)
            take_sample(life)
        return life

    def end_series(self) -> None:
        """End the series of the worker that is being followed."""
        if self.lives:
            self.lives[-1].end_series()

    def quiet_point(self, timeout_seconds: float = 15.0) -> Sample | None:
        """Sample the worker while no request runs, once what was open is closed or time is up.

        None in a life's warm-up; the later ones are compared with the first one after it.
        """
        life = self.lives[-1]
        deadline = time.monotonic() + timeout_seconds
        while True:
            with self._lock:
                sample = take_sample(life)
                if sample is None or sample.seconds < MIN_WARM_UP_SECONDS:
                    return None
                if not life.grown_counts(sample) or time.monotonic() > deadline:
                    life.quiet.append(sample)
                    life.open_files.append(open_files(family(life.process)))
                    return sample
            time.sleep(POLL_INTERVAL_SECONDS)

    def figures(self) -> list[dict[str, Any]]:
        """Return the figures of each life, for the report."""
        return [life_figures(life) for life in self.lives]

    def invariants(self) -> list[Invariant]:
        """Judge the lives: each has to be flat, and one of them long enough to say so."""
        verdicts = {life.growth().verdict for life in self.lives} - {"not judged"}
        is_judged = bool(verdicts) and "uncertain" not in verdicts
        memory = Invariant("workers whose memory grew", is_judged=is_judged)
        counts = Invariant("workers whose descriptors or threads grew", is_judged=False)
        for life in self.lives:
            growth = life.growth()
            if growth.verdict == "growing":
                memory.violations.append(
                    f"{life.name}: by {growth.grown_mib:.1f} MiB in {growth.seconds:.0f} s "
                    f"({growth.percent_an_hour or 0:.2f} % an hour)"
                )
            counts.is_judged |= life.has_judged_counts
            if life.quiet and (more := life.grown_counts(life.quiet[-1])):
                counts.violations.append(
                    f"{life.name}: {more} more than after the warm-up: {life.new_files()}"
                )
        return [memory, counts]

    def _run(self) -> None:
        while not self._stop.wait(self._interval_seconds):
            with self._lock:
                if self.lives:
                    take_sample(self.lives[-1])


def new_marker() -> str:
    """Return the marker of one worker."""
    return uuid.uuid4().hex


def marker_environment(marker: str) -> dict[str, str]:
    """Return the variable that a worker's processes inherit."""
    return {MARKER: marker}


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and its descendants; none if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if is_running(process):
            return [process, *process.children(recursive=True)]
    return []


def take_sample(life: Life) -> Sample | None:
    """Add a sample to a life, unless its worker has ended."""
    processes = family(life.process)
    if not processes:
        return None
    memory, descriptors, threads = 0.0, 0, 0
    for each in processes:
        with contextlib.suppress(psutil.Error, OSError):
            life.family.setdefault((each.pid, each.create_time()), each)
            memory += memory_mib(each.pid)
            descriptors += each.num_fds()
            threads += each.num_threads()
    seconds = time.monotonic() - life.began
    sample = Sample(seconds, memory, descriptors, threads, len(processes))
    if not life.is_ending:
        life.samples.append(sample)
    return sample


def memory_mib(pid: int) -> float:
    """Return a process's share of anonymous and shared memory, swapped or not."""
    counted = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rows = [line.split() for line in rollup.splitlines() if line.startswith(counted)]
    return sum(int(row[1]) for row in rows) / 1024


def open_files(processes: Iterable[psutil.Process]) -> Counter[str]:
    """Count the open files of processes by kind, so that a report can say what was left open."""
    kinds: Counter[str] = Counter()
    for each in processes:
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{each.pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(entry.path)
                    is_file = target.startswith("/")
                    kinds[target if is_file else target.split(":[", 1)[0]] += 1
    return kinds


def marked(marker: str) -> Iterator[psutil.Process]:
    """Find the processes with a marker in their environment, whoever their parent is."""
    text = f"{MARKER}={marker}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if text in environ.read_bytes().split(b"\0"):
                process = psutil.Process(int(environ.parent.name))
                if is_running(process):
                    yield process


def described(process: psutil.Process) -> str:
    """Return a process's id and the start of its command line."""
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:120] or process.name()}"
    return str(process.pid)


def life_figures(life: Life) -> dict[str, Any]:
    """Return the figures of one life."""
    growth, samples, quiet = life.growth(), life.samples, life.quiet

    def spread(read: Callable[[Sample], float], of: Sequence[Sample]) -> list[float]:
        return [round(read(each), 1) for each in (of[0], of[-1])] if of else []

    return {
        "name": life.name,
        "seconds": round(samples[-1].seconds, 1) if samples else 0.0,
        "samples": len(samples),
        "memory_mib": {
            "last": round(samples[-1].memory_mib, 1) if samples else None,
            "largest": round(max((each.memory_mib for each in samples), default=0.0), 1),
            "grown": round(growth.grown_mib, 1),
            "seconds": round(growth.seconds, 1),
            "percent_an_hour": growth.percent_an_hour,
            "interval": growth.interval,
            "verdict": growth.verdict,
        },
        "quiet_points": len(quiet),
        "descriptors": spread(lambda each: each.descriptors, quiet),
        "threads": spread(lambda each: each.threads, quiet),
        "new_files": life.new_files(),
    }


def memory_growth(series: Sequence[tuple[float, float]]) -> Growth:
    """Judge a series of (seconds, MiB) after its warm-up."""
    if not series:
        return Growth()
    length = series[-1][0]
    warm = min(max(MIN_WARM_UP_SECONDS, length * WARM_UP_SHARE), MAX_WARM_UP_SECONDS)
    rest = [point for point in series if point[0] >= warm]
    seconds = rest[-1][0] - rest[0][0] if rest else 0.0
    if seconds < MIN_JUDGED_SECONDS or len(rest) < 5:
        return Growth(seconds=seconds)
    fifth = max(len(rest) // 5, 1)
    level = statistics.median(memory for _, memory in rest[:fifth])
    grown = statistics.median(memory for _, memory in rest[-fifth:]) - level
    if seconds < MIN_RATE_SECONDS or len(rest) < 2 * BLOCKS:
        verdict = "growing" if grown > MAX_SHORT_GROWTH_MIB else "flat"
        return Growth(verdict, grown_mib=grown, seconds=seconds)
    slope, low, high = theil_sen(_blocks(rest))
    percent, low, high = (round(each * 3600 / level * 100, 3) for each in (slope, low, high))
    if low > MAX_PERCENT_AN_HOUR:
        verdict = "growing"
    else:
        verdict = "flat" if high < MAX_PERCENT_AN_HOUR else "uncertain"
    return Growth(verdict, percent, (low, high), grown, seconds)


def theil_sen(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the median slope of all pairs of points, and its 95 % interval by Sen."""
    slopes = sorted(
        (y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.combinations(points, 2)
    )
    number = len(points)
    spread = NORMAL_95 * math.sqrt(number * (number - 1) * (2 * number + 5) / 18)
    low = max(round((len(slopes) - spread) / 2), 0)
    high = min(round((len(slopes) + spread) / 2), len(slopes) - 1)
    return statistics.median(slopes), slopes[low], slopes[high]


def _blocks(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    bounds = [len(points) * number // BLOCKS for number in range(BLOCKS + 1)]
    blocks = [points[start:end] for start, end in itertools.pairwise(bounds)]
    return [
        (statistics.median(x for x, _ in block), statistics.median(y for _, y in block))
        for block in blocks
    ]
