"""How often a stream is flushed: what each flush costs, shared among all streams.

A flush is one POST to the platform, or a write to a connection. The first token leaves at once and
the last tokens do not wait; between them a stream gathers what the engine writes for an interval.
The engine merges its deltas meanwhile, so that what is written costs per flush and not per token.

With `streams` at once the interval is streams / posts_per_second, and never less than the
platform's round trip, for the SDK posts a stream's chunks one after the other. What a chunk holds
this module does not know.
"""

import asyncio

POSTS_PER_SECOND = 800.0  # of a quarter of a millisecond of CPU each; 200 streams get 4 a second
# Over HTTP a flush is a write to a socket: the engine's tokens leave one by one up to about a
# hundred streams, and from there on in twos and threes, as fast as one core can write them.
FLUSHES_PER_SECOND = 4000.0
WEIGHT = 0.1  # of the newest round trip in their running mean
LONGEST_SECONDS = 2.0  # a platform that hangs must not make the streams wait for it any longer


class Pacer:
    """Knows the interval; one for a worker.

    Attributes:
        posts_per_second: what all streams together may post.
        streams: how many there are.
        round_trip_seconds: of a POST, from a yield to the next token's turn.
    """

    def __init__(self, posts_per_second: float = POSTS_PER_SECOND) -> None:
        self.posts_per_second = posts_per_second
        self.streams = 0
        self.round_trip_seconds = 0.0

    def begin(self) -> None:
        """Count a stream."""
        self.streams += 1

    def end(self) -> None:
        """Count it no longer."""
        self.streams -= 1

    def posted(self, seconds: float) -> None:
        """Note how long a POST has taken."""
        self.round_trip_seconds += WEIGHT * (seconds - self.round_trip_seconds)

    def interval_seconds(self) -> float:
        """Return the least time between two flushes of one stream. From any thread."""
        shared = self.streams / self.posts_per_second
        return min(max(self.round_trip_seconds, shared), LONGEST_SECONDS)


class FlushGate(asyncio.Event):
    """What a stream's consumer waits on in the engine's loop: set at most once an interval.

    `set` opens it now, or when the interval since the last `clear` is over; `open` now.
    """

    def __init__(self, pacer: Pacer) -> None:
        super().__init__()
        self._pacer = pacer
        self._due = 0.0  # on the loop's clock; the first token's time has come
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        """There is something: open as soon as it is due."""
        if self._timer is not None or self.is_set():
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._due:
            super().set()
        else:
            self._timer = loop.call_at(self._due, self.open)

    def open(self) -> None:
        """Open now: it is due, or it is the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().set()

    def clear(self) -> None:
        """What there was is taken; the next interval begins."""
        super().clear()
        self._due = asyncio.get_running_loop().time() + self._pacer.interval_seconds()
