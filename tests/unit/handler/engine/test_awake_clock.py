"""The clock that stands still while the process is frozen, and timeouts on it."""

import asyncio
import math

import pytest

from handler.engine.awake_clock import TICK_SECONDS, AwakeClock, AwakeTimeout, AwakeTimer


class Clocks:
    """A process's clocks, which a test moves."""

    def __init__(self):
        self.monotonic, self.wall, self.cpu = 100.0, 1000.0, 7.0
        self.awake = AwakeClock(
            monotonic=lambda: self.monotonic, wall=lambda: self.wall, cpu=lambda: self.cpu
        )
        self.awake.tick()

    def move(self, seconds, *, cpu=0.0, wall=None):
        self.monotonic += seconds
        self.wall += seconds if wall is None else wall
        self.cpu += cpu


@pytest.mark.parametrize(
    ("moves", "noticed", "passed"),
    [
        ({"seconds": 0.25, "cpu": 0.25}, 0.0, 0.25),
        ({"seconds": 1.0}, 0.0, 1.0),
        ({"seconds": 4.25}, 0.0, 0.25),
        ({"seconds": 60.25, "cpu": 0.2}, 60.0, 0.25),
        ({"seconds": 60.25, "cpu": 58.0}, 0.0, 60.25),
        ({"seconds": 0.25, "wall": 60.25}, 60.0, 0.25),
        ({"seconds": 0.25, "wall": -60.0}, 0.0, 0.25),
    ],
    ids=[
        "awake",
        "late",
        "frozen for a moment",
        "frozen",
        "busy",
        "restored elsewhere",
        "clock set back",
    ],
)
def test_frozen_seconds_do_not_pass(moves, noticed, passed, caplog):
    """Before the tick that notices them, and after it."""
    clocks = Clocks()
    before = clocks.awake.now()
    clocks.move(**moves)
    assert clocks.awake.now() - before == passed
    assert clocks.awake.tick() == noticed
    assert clocks.awake.now() - before == passed
    assert len(caplog.records) == (noticed > 0)


def test_freezes_add_up():
    clocks = Clocks()
    before = clocks.awake.now()
    for _ in range(3):
        clocks.move(10.0 + TICK_SECONDS)
        clocks.awake.tick()
        clocks.move(1.0)
        clocks.awake.tick()
    assert clocks.awake.now() - before == 3 * (1.0 + TICK_SECONDS)


def test_a_timeout_does_not_fire_for_the_time_of_a_freeze():
    """Its timer fires at once at the thaw, and is set again."""
    clocks, seconds = Clocks(), []

    async def wait():
        loop = asyncio.get_running_loop()
        began = loop.time()
        clocks.monotonic = began
        clocks.awake._start()
        loop_time = loop.time
        # The loop's clock and the process's go on by 60 s, without a tick.
        clocks.awake._monotonic = loop.time = lambda: loop_time() + shift
        shift = 0.0
        async with AwakeTimeout(0.5, clock=clocks.awake):
            shift = 60.0
            await asyncio.sleep(0.01)
            clocks.awake.tick()
            seconds.append("awake again")
            while True:
                await asyncio.sleep(0.05)
                clocks.awake.tick()

    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    assert seconds == ["awake again"]


def test_a_timer_does_not_fire_for_the_time_of_a_freeze():
    clocks, called = Clocks(), []

    async def wait():
        loop = asyncio.get_running_loop()
        loop_time, shift = loop.time, 0.0
        clocks.monotonic = loop_time()
        clocks.awake._start()
        clocks.awake._monotonic = loop.time = lambda: loop_time() + shift
        fired = asyncio.Event()
        timer = AwakeTimer(0.5, lambda: (called.append(shift), fired.set()), clock=clocks.awake)
        cancelled = AwakeTimer(0.01, lambda: called.append("cancelled"), clock=clocks.awake)
        cancelled.cancel()
        shift = 60.0
        await asyncio.sleep(0.05)
        assert called == []
        while not fired.is_set():
            clocks.awake.tick()
            await asyncio.sleep(0.05)
        timer.cancel()

    asyncio.run(wait())
    assert called == [60.0]


def test_how_long_ago_the_last_freeze_was():
    """In seconds awake."""
    clocks = Clocks()
    assert clocks.awake.seconds_since_freeze == math.inf
    clocks.move(100.0)
    assert clocks.awake.tick() > 0
    for _ in range(3):
        clocks.move(1.0)
        assert clocks.awake.tick() == 0
    assert clocks.awake.seconds_since_freeze == 3.0
    clocks.move(4.0 + TICK_SECONDS)  # too short to have cut connections
    assert clocks.awake.tick() == 0
    assert clocks.awake.seconds_since_freeze == 3.0 + TICK_SECONDS
    clocks.move(50.0)
    assert clocks.awake.tick() > 0
    assert clocks.awake.seconds_since_freeze == 0.0


def test_a_freeze_while_the_clock_is_read_does_not_make_it_go_back():
    """The watch ticks at the thaw, before the thread that reads has gone on."""
    clocks = Clocks()
    before = clocks.awake.now()
    monotonic, moved = clocks.awake._monotonic, []

    def read():
        if not moved:
            moved.append(True)
            clocks.move(60.0)
            clocks.awake.tick()
        return monotonic()

    clocks.awake._monotonic = read
    assert clocks.awake.now() >= before


def test_a_timeout_without_seconds_never_fires():
    async def wait():
        async with AwakeTimeout():
            await asyncio.sleep(0)

    asyncio.run(wait())


def test_a_timeout_in_the_past_fires_at_once():
    clocks = Clocks()

    async def wait():
        async with AwakeTimeout(at=clocks.awake.now() - 1, clock=clocks.awake):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(wait())
