"""The soak's view of a worker's processes, with planted growth and a planted orphan."""

import math
import random
import subprocess
import sys

import psutil
import pytest

from tests.soak.resources import (
    MIN_JUDGED_SECONDS,
    MIN_WARM_UP_SECONDS,
    POOL_THREADS,
    Growth,
    Life,
    Sample,
    Sampler,
    marker_environment,
    memory_growth,
    new_marker,
    take_sample,
    theil_sen,
)
from tests.support.conditions import wait_until
from tests.support.environment import clean_environment

HOUR = 3600
MEMORY, COUNTS = 0, 1  # the invariants of a sampler


def series(seconds, percent_an_hour, noise_mib=5.0, level=1000.0):
    """Return samples every five seconds, of a memory that doubles in its first 20 seconds."""
    drawn = random.Random(7)
    return [
        (
            float(second),
            level * (1 - math.exp(-second / 5) / 2) * (1 + percent_an_hour / 100 * second / HOUR)
            + drawn.uniform(-noise_mib, noise_mib),
        )
        for second in range(0, seconds, 5)
    ]


@pytest.mark.parametrize(
    ("seconds", "percent", "verdict"),
    [
        (HOUR, 0.0, "flat"),
        (HOUR, -3.0, "flat"),
        (HOUR, 3.0, "growing"),
        (HOUR, 1.0, "uncertain"),
        (300, 0.0, "flat"),
        (300, 400.0, "growing"),  # about 200 MiB in three minutes
        (100, 0.0, "flat"),
        (100, 12_000.0, "growing"),  # two MiB a second
        (90, 12_000.0, "not judged"),  # the last sample is at 85 s
        (5, 0.0, "not judged"),
    ],
)
def test_memory_is_judged_after_the_warm_up(seconds, percent, verdict):
    assert memory_growth(series(seconds, percent)).verdict == verdict


def test_the_interval_holds_the_planted_rate():
    growth = memory_growth(series(HOUR, 2.0))
    low, high = growth.interval
    assert low < 2.0 < high
    assert high - low < 1.0


def test_single_peaks_are_no_growth():
    peaks = [(x, y + 500 * (number % 10 == 0)) for number, (x, y) in enumerate(series(HOUR, 0.0))]
    assert memory_growth(peaks).verdict == "flat"


def test_a_series_without_samples_says_nothing():
    assert memory_growth([]) == Growth("not judged", None, None, 0.0, 0.0)


def test_the_slope_is_the_median_of_all_pairs():
    points = [(float(x), 2.0 * x) for x in range(10)]
    assert theil_sen([*points, (10.0, 500.0)])[:2] == (2.0, 2.0)


GROWING = """
import sys, threading, time
held = []
for line in sys.stdin:
    if line == "memory\\n":
        held.append(bytearray(200 << 20))
    if line == "file\\n":
        held.append(open("/dev/zero"))
    if line == "thread\\n":
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    print("done", flush=True)
"""


class Planted:
    """A process that takes memory, a file descriptor or a thread when it is told to."""

    def __init__(self, process):
        self._process = process

    def take(self, what):
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@pytest.fixture
def sampler():
    with Sampler(interval_seconds=1000) as running:
        yield running


@pytest.fixture
def planted(sampler):
    marker = new_marker()
    with subprocess.Popen(
        [sys.executable, "-c", GROWING],
        env=clean_environment(**marker_environment(marker)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        sampler.follow(process.pid, marker).began -= MIN_WARM_UP_SECONDS
        made = Planted(process)
        made.take("nothing")
        yield made
        process.kill()


def test_what_a_quiet_point_has_more_than_the_first_is_a_violation(sampler, planted):
    sampler.quiet_point()
    sampler.lives[0].began -= MIN_JUDGED_SECONDS
    sampler.quiet_point()
    assert [each.verdict for each in sampler.invariants()] == ["not judged", "holds"]
    planted.take("file")
    planted.take("file")
    sampler.quiet_point(timeout_seconds=0)
    for _ in range(POOL_THREADS + 1):
        planted.take("thread")
    sampler.quiet_point(timeout_seconds=0)
    assert sampler.invariants()[COUNTS].violations == [
        "worker 1: {'descriptors': 2, 'threads': 1} more than after the warm-up: {'/dev/zero': 2}"
    ]


def test_quiet_points_in_the_warm_up_or_close_together_say_nothing(sampler, planted):
    sampler.quiet_point()
    sampler.quiet_point()
    assert sampler.invariants()[COUNTS].verdict == "not judged"
    sampler.lives[0].quiet.clear()
    sampler.lives[0].begin_series()
    assert sampler.quiet_point() is None
    assert sampler.lives[0].quiet == []


def test_the_end_of_a_worker_is_no_part_of_its_series(sampler, planted):
    before = list(sampler.lives[0].samples)
    sampler.end_series()
    take_sample(sampler.lives[0])
    assert sampler.lives[0].samples == before


def test_the_connections_of_a_pool_are_no_growth(sampler, planted):
    sampler.lives[0].pooled_connections = 1
    sampler.quiet_point()
    planted.take("file")
    sampler.quiet_point(timeout_seconds=0)
    assert sampler.lives[0].grown_counts(sampler.lives[0].quiet[-1]) == {}
    planted.take("file")
    sampler.quiet_point(timeout_seconds=0)
    assert sampler.lives[0].grown_counts(sampler.lives[0].quiet[-1]) == {"descriptors": 1}


def test_memory_of_the_whole_tree_is_counted(sampler, planted):
    before = sampler.quiet_point()
    planted.take("memory")
    after = sampler.quiet_point()
    assert 190 < after.memory_mib - before.memory_mib < 210


def life_of(seconds, percent_an_hour):
    rows = series(seconds, percent_an_hour)
    return Life(
        "worker", None, "", 0.0, [Sample(second, memory, 3, 1, 1) for second, memory in rows]
    )


@pytest.mark.parametrize(
    ("lives", "verdict"),
    [
        ([], "not judged"),
        ([life_of(40, 12_000.0)] * 7, "not judged"),
        ([life_of(40, 0.0), life_of(120, 0.0)], "holds"),
        ([life_of(120, 0.0), life_of(120, 12_000.0)], "broken"),
        ([life_of(HOUR, 0.0)], "holds"),
        ([life_of(HOUR, 5.0)], "broken"),
        ([life_of(120, 0.0), life_of(HOUR, 1.0)], "not judged"),
    ],
)
def test_memory_that_grows_is_seen_in_a_life_that_is_long_enough(lives, verdict):
    sampler = Sampler()
    sampler.lives = lives
    assert sampler.invariants()[MEMORY].verdict == verdict


SPAWN = """
import subprocess, sys
subprocess.Popen(["sleep", "1000"], {}start_new_session=True, stdout=subprocess.DEVNULL)
print("started", flush=True)
sys.stdin.read()
"""


def orphaned(environ_of_orphan, before_end):
    """Start a process that leaves one behind, and return what is left after its end."""
    marker = new_marker()
    with (
        Sampler(interval_seconds=1000) as sampler,
        subprocess.Popen(
            [sys.executable, "-c", SPAWN.format(environ_of_orphan)],
            env=clean_environment(**marker_environment(marker)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process,
    ):
        life = sampler.follow(process.pid, marker)
        assert process.stdout.readline() == b"started\n"
        before_end(sampler)
        process.stdin.close()
        process.wait(60)
        left = life.orphans(timeout_seconds=0)
        return left, _end(life, left)


def _end(life: Life, left):
    """End the planted orphan, and return its id."""
    [pid] = {int(each.split()[0]) for each in left}
    psutil.Process(pid).kill()
    wait_until(lambda: life.orphans(timeout_seconds=0) == [])
    return pid


def test_a_process_that_the_worker_leaves_is_found_by_its_marker():
    left, pid = orphaned("", lambda sampler: None)
    assert left == [f"{pid} sleep 1000"]


def test_a_process_without_the_marker_is_found_if_it_was_seen():
    left, pid = orphaned("env={}, ", lambda sampler: sampler.quiet_point())
    assert left == [f"{pid} sleep 1000"]
