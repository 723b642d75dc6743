"""SGLang's processes, its sockets and its log, kept from what is the worker's."""

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Iterator
from typing import Any

import psutil

GONE_SECONDS = 5.0


async def stop(engine: Any) -> None:
    """End the engine's processes and none of the worker's others, which its `shutdown` would."""
    manager = engine.tokenizer_manager
    if manager is not None:
        if manager._subprocess_watchdog is not None:
            manager._subprocess_watchdog._stop_event.set()
        tasks = list(manager.asyncio_tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    result = getattr(engine, "_scheduler_init_result", None)
    left = []
    for pid in result.all_child_pids if result else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            left += [process, *process.children(recursive=True)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=GONE_SECONDS)


@contextlib.contextmanager
def own_logging() -> Iterator[None]:
    """Keep the worker's log as it is: SGLang's set-up replaces the handlers of everybody."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def temporary_files() -> Iterator[None]:
    """Give SGLang's sockets and metrics files a folder that goes with it."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="sglang-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
