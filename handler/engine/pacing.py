"""Pacing: the flush interval of each stream, from the cost of a flush and the number of streams.

A flush is one POST to the platform, or one write to a connection. The first token and the last
ones are flushed at once. In between, the engine merges the tokens of an interval into one delta, so
that work is done per flush and not per token.

A flush costs the same for one token and for many. The more streams are open, the less often each is
flushed: all together `economical_flushes_per_second` times a second, until the interval of each is
COMFORTABLE_SECONDS. Still more streams have more flushes, up to `max_flushes_per_second`. An
interval is never shorter than the platform's round trip, because the chunks of a stream are posted
one after the other.
"""

import asyncio

from handler.settings.fields import POSTS_PER_SECOND

# Over HTTP a flush is a write to a socket: up to about a hundred streams get every token at once.
WRITES_PER_SECOND = 4000.0
ECONOMICAL_POSTS_PER_SECOND = 800.0
COMFORTABLE_SECONDS = 0.22  # between two flushes; a reader sees a flow, not steps
ROUND_TRIP_WEIGHT = 0.1  # of the newest round trip in the running mean
MAX_INTERVAL_SECONDS = 2.0  # however long the platform takes to answer


class Pacer:
    """The flush interval of one worker.

    Args:
        max_flushes_per_second: of all streams together.
        economical_flushes_per_second: of all streams together, while the interval is comfortable;
            None for the maximum.

    Attributes:
        streams: open now.
        round_trip_seconds: running mean, from a yield to the SDK's next call of the generator.
    """

    def __init__(
        self,
        max_flushes_per_second: float = POSTS_PER_SECOND,
        economical_flushes_per_second: float | None = None,
    ) -> None:
        self.max_flushes_per_second = max_flushes_per_second
        self._economical_flushes_per_second = economical_flushes_per_second
        self.streams = 0
        self.round_trip_seconds = 0.0

    def stream_opened(self) -> None:
        self.streams += 1

    def stream_closed(self) -> None:
        self.streams -= 1

    def flushed(self, seconds: float) -> None:
        """Add the round trip of one flush to the running mean."""
        self.round_trip_seconds += ROUND_TRIP_WEIGHT * (seconds - self.round_trip_seconds)

    def interval_seconds(self) -> float:
        """Return the shortest time between two flushes of one stream. Thread-safe."""
        shortest = max(self.round_trip_seconds, self.streams / self.max_flushes_per_second)
        if self._economical_flushes_per_second is not None:
            economical = self.streams / self._economical_flushes_per_second
            shortest = max(shortest, min(economical, COMFORTABLE_SECONDS))
        return min(shortest, MAX_INTERVAL_SECONDS)


class FlushGate(asyncio.Event):
    """An event that opens at most once per interval; one stream's consumer waits on it.

    `set` opens it when the interval since the last `clear` has passed, `open` opens it at once.
    """

    def __init__(self, pacer: Pacer) -> None:
        super().__init__()
        self._pacer = pacer
        self._due = 0.0  # loop time; in the past, so that the first token does not wait
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        if self._timer is not None or self.is_set():
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._due:
            super().set()
        else:
            self._timer = loop.call_at(self._due, self.open)

    def open(self) -> None:
        """Open now: the interval has passed, or the stream ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().set()

    def clear(self) -> None:
        """Close, and start the next interval."""
        super().clear()
        self._due = asyncio.get_running_loop().time() + self._pacer.interval_seconds()
