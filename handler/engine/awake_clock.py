"""The clock of this process without the time for which it was frozen.

FlashBoot, `docker pause` and SIGSTOP freeze a worker with all its processes. The monotonic clock
goes on meanwhile, so every timeout would fire at the thaw. A timeout on this clock does not.

A thread ticks. A tick that comes late, in a process that used no CPU time meanwhile, was frozen. A
machine that swaps looks the same, and its requests did not get on either. Where a restored process
continues its monotonic clock, only the wall clock shows the time.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from handler.supervisor import Supervisor

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
MIN_FROZEN_SECONDS = 5.0  # of a freeze that has a line in the log, and may have cut connections
MIN_UNCOUNTED_SECONDS = 1.0  # that do not pass on this clock
MAX_CPU_SHARE = 0.9  # of one core; above, the process was busy and not frozen


class _Tick(NamedTuple):
    monotonic: float
    wall: float
    cpu: float
    frozen: float  # seconds, in all


class AwakeClock:
    """Seconds that pass only while the process runs. Thread-safe.

    Args:
        min_frozen_seconds: a shorter delay of a tick is not noticed as a freeze.
        logs: whether each freeze has a line in the log.
        monotonic, wall, cpu: the clocks.
    """

    def __init__(
        self,
        min_frozen_seconds: float = MIN_FROZEN_SECONDS,
        *,
        logs: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._min_frozen_seconds = min_frozen_seconds
        self._log_level = logging.WARNING if logs else logging.DEBUG
        self._monotonic, self._wall, self._cpu = monotonic, wall, cpu
        self._tick: _Tick | None = None  # None while no thread ticks
        self._frozen = 0.0
        self._woken_at = -math.inf  # on this clock

    @property
    def seconds_since_freeze(self) -> float:
        """The seconds awake since the last freeze that a tick has noticed; infinite without one."""
        return self.now() - self._woken_at

    def now(self) -> float:
        """Return seconds since some moment, without the frozen ones."""
        tick = self._tick  # first: a freeze in between must not end before this tick
        now = self._monotonic()
        if tick is None:
            return now - self._frozen
        return now - tick.frozen - self._frozen_since(tick, now)

    @contextlib.contextmanager
    def ticking(
        self, supervisor: Supervisor, on_wake: Callable[[], object] = lambda: None
    ) -> Iterator[None]:
        """Notice freezes inside the block.

        Args:
            supervisor: watches the thread that ticks.
            on_wake: called on another thread after each freeze.
        """
        stop = threading.Event()
        self._start()
        thread = supervisor.thread("watch for freezes", lambda: self._run(stop, on_wake))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._tick = None

    def tick(self) -> float:
        """Count the time since the last tick; return the seconds of a freeze in it, 0 for none."""
        last = self._tick or self._start()
        now, wall, cpu = self._monotonic(), self._wall(), self._cpu()
        frozen = self._frozen_since(last, now)
        self._frozen = last.frozen + frozen
        self._tick = _Tick(now, wall, cpu, self._frozen)
        if frozen >= self._min_frozen_seconds:
            self._woken_at = now - self._frozen
            log.log(self._log_level, "the process was frozen for %.0f s", frozen)
            return frozen
        jump = (wall - last.wall) - (now - last.monotonic)
        if jump >= self._min_frozen_seconds:
            text = "the time went on by %.0f s: a freeze, or the clock was set"
            log.log(self._log_level, text, jump)
            return jump
        return 0.0

    def _start(self) -> _Tick:
        tick = _Tick(self._monotonic(), self._wall(), self._cpu(), self._frozen)
        self._tick = tick
        return tick

    def _frozen_since(self, tick: _Tick, now: float) -> float:
        late = now - tick.monotonic - TICK_SECONDS
        if late < MIN_UNCOUNTED_SECONDS or self._cpu() - tick.cpu > MAX_CPU_SHARE * late:
            return 0.0
        return late

    def _run(self, stop: threading.Event, on_wake: Callable[[], object]) -> None:
        while not stop.wait(TICK_SECONDS):
            if self.tick():
                on_wake()


awake_clock = AwakeClock()
"""This process's clock: like `time.monotonic` until `ticking`."""


class AwakeTimer:
    """`call_later` on the awake clock, for the running event loop.

    Args:
        seconds: from now.
        call: called once.
    """

    def __init__(
        self,
        seconds: float,
        call: Callable[[], object],
        *,
        clock: AwakeClock = awake_clock,
    ) -> None:
        self._call, self._clock = call, clock
        self._at = clock.now() + seconds
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds, self._check)

    def cancel(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        """Call, or look again when the time may be over."""
        left = self._at - self._clock.now()
        if left <= 0:
            self._call()
        else:
            self._timer = self._loop.call_later(left, self._check)


class AwakeTimeout:
    """`asyncio.timeout` on the awake clock.

    Args:
        seconds: from the begin of the block; None for no timeout.
        at: or the end, on the awake clock.
    """

    def __init__(
        self,
        seconds: float | None = None,
        *,
        at: float | None = None,
        clock: AwakeClock = awake_clock,
    ) -> None:
        self._seconds, self._at, self._clock = seconds, at, clock
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        if self._at is None and self._seconds is not None:
            self._at = self._clock.now() + self._seconds
        self._check()

    async def __aexit__(self, kind: type[BaseException] | None, *more: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, *more)  # type: ignore[arg-type]

    def _check(self) -> None:
        """End the block, or look again when its time may be over."""
        if self._at is None:
            return
        loop, left = asyncio.get_running_loop(), self._at - self._clock.now()
        if left <= 0:
            self._timeout.reschedule(loop.time())
        else:
            self._timer = loop.call_later(left, self._check)
