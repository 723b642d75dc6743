"""Memory of requests that have ended, which goes back to the system.

glibc keeps what is freed in the arena of the thread that asked for it: gigabytes for the rest of
the worker's life, after a dozen bodies of 30 MB, and some percent an hour of smaller requests.
"""

import asyncio
import ctypes
from collections.abc import Mapping
from concurrent.futures import Executor

M_ARENA_MAX = -8  # of malloc.h
MAX_ARENAS = 2  # of one the threads would wait for each other

LARGE_BYTES = 100_000  # of text: tokens and their offsets take a hundred times as much
DELAY_SECONDS = 60.0
LARGE_DELAY_SECONDS = 1.0  # from the end of a large request until nothing refers to its body


def share_arenas(environ: Mapping[str, str]) -> None:
    """Have all threads of this process share two arenas of glibc; call it before they start.

    Each thread has one of its own otherwise, with what its largest requests have left in it, which
    no other thread uses: bursts of requests on other threads took more each time.
    MALLOC_ARENA_MAX, glibc's own variable, has precedence.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in environ:
        mallopt(M_ARENA_MAX, MAX_ARENAS)


class MemoryTrimmer:
    """Gives free memory back a second after a large request, and a minute after any other.

    Args:
        executor: runs the trim; None for the loop's own threads.
    """

    def __init__(self, executor: Executor | None = None) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc only
        self._executor = executor
        self._waiting: set[float] = set()
        self._again: set[float] = set()

    def released(self, size: int) -> None:
        """Take note of the end of a request with a body of this size; call it on a loop."""
        delay_seconds = LARGE_DELAY_SECONDS if size >= LARGE_BYTES else DELAY_SECONDS
        if delay_seconds in self._waiting:  # when that ends, this body may still be in use
            self._again.add(delay_seconds)
        else:
            self._wait(delay_seconds)

    def _wait(self, delay_seconds: float) -> None:
        self._waiting.add(delay_seconds)
        asyncio.get_running_loop().call_later(delay_seconds, self._start, delay_seconds)

    def _start(self, delay_seconds: float) -> None:
        self._waiting.discard(delay_seconds)
        if delay_seconds in self._again:
            self._again.discard(delay_seconds)
            self._wait(delay_seconds)
        if self._trim is not None:
            asyncio.get_running_loop().run_in_executor(self._executor, self._trim, 0)
