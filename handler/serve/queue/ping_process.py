"""The SDK's process of pings: started again when it ends, and connected again after a freeze.

The SDK starts it once and forgets it. Without pings the platform takes the worker for dead.
"""

import asyncio
import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

from handler.engine.awake_clock import awake_clock

log = logging.getLogger(__name__)

RESTART_PAUSE_SECONDS = 1.0
MAX_ENDS = 5  # in the window: then the worker ends
WINDOW_SECONDS = 60.0
MIN_LATE_SECONDS = 5.0  # a ping that comes so late was held up by a freeze


class PingProcess:
    """The process that the SDK starts through `make`, and those that follow it.

    Args:
        restart_pause_seconds: the pause before each restart.
    """

    def __init__(self, restart_pause_seconds: float = RESTART_PAUSE_SECONDS) -> None:
        self._restart_pause_seconds = restart_pause_seconds
        self._make: Callable[[], BaseProcess] | None = None
        self._process: BaseProcess | None = None

    def make(self, target: object, args: tuple[Any, ...]) -> BaseProcess:
        """Return a process for `Heartbeat.process_loop`; replaces `rp_ping.Process`."""

        def process() -> BaseProcess:
            return multiprocessing.Process(target=run_pings, args=args, name="pings", daemon=True)

        self._make, self._process = process, process()
        return self._process

    async def keep_running(self) -> None:
        """Start the process again each time it ends; return at once if the SDK started none.

        Raises:
            ChildProcessError: it ends again and again.
        """
        ends: deque[float] = deque(maxlen=MAX_ENDS)
        while self._make is not None and self._process is not None:
            await _wait_for_end(self._process)
            self._process.join()
            code = self._process.exitcode
            ends.append(awake_clock.now())
            if len(ends) == MAX_ENDS and ends[-1] - ends[0] < WINDOW_SECONDS:
                raise ChildProcessError(f"the process of pings ended {MAX_ENDS} times, with {code}")
            log.warning("the process of pings ended with %s and is started again", code)
            await asyncio.sleep(self._restart_pause_seconds)
            self._process = self._make()
            self._process.start()


def run_pings(mirror: Any, *args: Any) -> None:
    """Send pings until the worker has ended; the process's target.

    Its arguments are those of `Heartbeat.process_loop`.
    """
    parent_pid = os.getppid()  # the worker, or the fork server, which ends with it
    from runpod.serverless.modules.rp_ping import Heartbeat

    heartbeat = Heartbeat()
    heartbeat._mirror = mirror
    send = heartbeat._send_ping
    last = _clocks()

    def send_ping() -> None:
        nonlocal last
        if os.getppid() != parent_pid:
            raise SystemExit
        now = _clocks()
        if max(now[0] - last[0], now[1] - last[1]) > heartbeat.PING_INTERVAL + MIN_LATE_SECONDS:
            heartbeat._session.close()  # its connections; they may be dead
        send()
        last = _clocks()

    heartbeat._send_ping = send_ping
    heartbeat.ping_loop(*args)


def _clocks() -> tuple[float, float]:
    """Return two clocks: where a restored process continues the first, the second shows it."""
    return time.monotonic(), time.time()


async def _wait_for_end(process: BaseProcess) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process.sentinel)
