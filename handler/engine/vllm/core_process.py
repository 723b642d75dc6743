"""When the process of vLLM's core was started, seen from the core or from one of its ranks."""

import multiprocessing
import os

from handler.startup.timings import process_start_time

RANK_NAME = "VllmWorker"  # vLLM's name of a rank's process, a child of the core's
CORE_STARTED = "core started"
"""The first stage of a rank's timings: the core's process, until it begins to work."""


def core_started(began_work: float) -> tuple[str, float, float]:
    """Return the timing of the core's process: stage, seconds since the epoch, seconds."""
    started = process_start_time(_core_pid())
    return CORE_STARTED, started, max(0.0, began_work - started)


def _core_pid() -> int:
    name = multiprocessing.current_process().name
    return os.getppid() if name.startswith(RANK_NAME) else os.getpid()
