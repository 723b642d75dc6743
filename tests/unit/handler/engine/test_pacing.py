"""When a stream is flushed: at once, then once an interval, and never later than its end."""

import asyncio

import pytest

from handler.engine.pacing import COMFORTABLE_SECONDS, MAX_INTERVAL_SECONDS, FlushGate, Pacer


@pytest.mark.parametrize(
    ("streams", "round_trips", "interval"),
    [
        (0, [], 0.0),
        (100, [], 0.25),
        (1, [0.05] * 200, 0.05),
        (100, [0.05] * 200, 0.25),
        (4000, [], MAX_INTERVAL_SECONDS),
        (1, [60.0] * 200, MAX_INTERVAL_SECONDS),
    ],
    ids=["none", "streams", "round trip", "the longer one", "crowd", "hanging platform"],
)
def test_the_interval_follows_the_streams_and_the_platform(streams, round_trips, interval):
    """Streams share the posts; a stream's posts follow each other in any case."""
    pacer = Pacer(max_flushes_per_second=400)
    for _ in range(streams):
        pacer.stream_opened()
    for seconds in round_trips:
        pacer.flushed(seconds)
    assert pacer.interval_seconds() == pytest.approx(interval)


@pytest.mark.parametrize(
    ("streams", "interval"),
    [(0, 0.0), (64, 0.08), (176, COMFORTABLE_SECONDS), (400, COMFORTABLE_SECONDS), (500, 0.25)],
)
def test_flushes_are_few_while_the_interval_is_comfortable(streams, interval):
    """Then as many as keep it comfortable, up to the maximum."""
    pacer = Pacer(max_flushes_per_second=2000, economical_flushes_per_second=800)
    for _ in range(streams):
        pacer.stream_opened()
    assert pacer.interval_seconds() == pytest.approx(interval)


def test_a_stream_that_has_ended_takes_no_share():
    """Of the posts."""
    pacer = Pacer(max_flushes_per_second=1)
    pacer.stream_opened()
    pacer.stream_closed()
    assert pacer.interval_seconds() == 0


class Clock:
    """The loop's time, which the test moves."""

    def __init__(self, loop):
        self.now = loop.time()
        loop.time = lambda: self.now

    async def move(self, seconds):
        self.now += seconds
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
def pacer():
    """One stream, four flushes a second."""
    made = Pacer(max_flushes_per_second=4)
    made.stream_opened()
    return made


def gated(pacer, steps):
    async def run():
        await steps(FlushGate(pacer), Clock(asyncio.get_running_loop()))

    asyncio.run(run())


def test_the_first_token_leaves_at_once_and_the_next_after_the_interval(pacer):
    """However many come meanwhile."""

    async def steps(gate, clock):
        gate.set()
        assert gate.is_set()
        gate.clear()
        for _ in range(3):
            gate.set()
            await clock.move(0.08)
            assert not gate.is_set()
        await clock.move(0.02)
        assert gate.is_set()

    gated(pacer, steps)


def test_a_token_after_a_pause_does_not_wait(pacer):
    """Its interval is over."""

    async def steps(gate, clock):
        gate.set()
        gate.clear()
        await clock.move(0.3)
        assert not gate.is_set()
        gate.set()
        assert gate.is_set()

    gated(pacer, steps)


def test_the_end_does_not_wait(pacer):
    """And what was to open later opens no second time."""

    async def steps(gate, clock):
        gate.set()
        gate.clear()
        gate.set()
        assert not gate.is_set()
        gate.open()
        assert gate.is_set()
        gate.clear()
        await clock.move(0.3)
        assert not gate.is_set()

    gated(pacer, steps)
