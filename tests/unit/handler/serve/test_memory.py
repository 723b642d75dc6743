"""Memory of large requests goes back to the system."""

import asyncio
import os
import subprocess
import sys
import threading

import psutil
import pytest

from handler.serve import memory
from handler.serve.http.body import BodyMemory
from handler.serve.memory import LARGE_BYTES, MemoryTrimmer

COUNT, SIZE = 100_000, 1000  # each is of malloc's own arena, not of Python's


def test_what_a_large_request_has_freed_goes_back(monkeypatch):
    """Below a block that is still in use glibc keeps it."""
    monkeypatch.setattr(memory, "LARGE_DELAY_SECONDS", 0)
    trims = []

    class Trimmer(MemoryTrimmer):
        def __init__(self):
            super().__init__()
            trim = self._trim
            self._trim = lambda pad: trims.append(trim(pad))

    async def run(*sizes):
        trimmer = Trimmer()
        for size in sizes:
            trimmer.released(size)
        while not trims:
            await asyncio.sleep(0.001)
        await asyncio.get_running_loop().shutdown_default_executor()

    blocks = [bytes(SIZE) for _ in range(COUNT)]
    kept = bytes(SIZE)
    del blocks
    freed = psutil.Process().memory_info().rss
    asyncio.run(run(0, LARGE_BYTES, 0))
    assert trims == [1]  # memory was released
    assert freed - psutil.Process().memory_info().rss > COUNT * SIZE / 2
    assert len(kept) == SIZE


@pytest.mark.parametrize("size", [LARGE_BYTES, LARGE_BYTES - 1], ids=["large", "small"])
def test_many_requests_have_one_trim_soon_and_one_once_the_last_body_is_not_in_use(
    monkeypatch, size
):
    other, own = "DELAY_SECONDS", "LARGE_DELAY_SECONDS"
    if size < LARGE_BYTES:
        other, own = own, other
    monkeypatch.setattr(memory, other, 3600)
    monkeypatch.setattr(memory, own, 0.05)
    trims = []

    async def run():
        trimmer = MemoryTrimmer()
        trimmer._trim = trims.append
        for _ in range(3):
            trimmer.released(size)
        while len(trims) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)

    asyncio.run(run())
    assert trims == [0, 0]


def test_the_end_of_a_large_http_body_releases_memory_in_the_thread_that_decoded_it(monkeypatch):
    monkeypatch.setattr(memory, "LARGE_DELAY_SECONDS", 0)
    threads = []

    async def run():
        bodies, trimmed = BodyMemory(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def trim(_):
            threads.append(threading.current_thread().name)
            loop.call_soon_threadsafe(trimmed.set)

        bodies._trimmer._trim = trim
        bodies.take(LARGE_BYTES)
        bodies.give_back(LARGE_BYTES)
        await trimmed.wait()
        bodies.thread.shutdown()

    asyncio.run(run())
    assert threads == ["bodies_0"]


EIGHT_THREADS_ALLOCATE = """
import ctypes, os, threading
from handler.serve.memory import share_arenas
share_arenas(os.environ)
all_have_allocated = threading.Barrier(8)
def allocate():
    block = bytes(1000)
    all_have_allocated.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.parametrize(("own", "arenas"), [({}, 2), ({"MALLOC_ARENA_MAX": "3"}, 3)])
def test_threads_share_two_arenas_unless_the_user_says_otherwise(own, arenas):
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_THREADS_ALLOCATE],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count("Arena ") == arenas
