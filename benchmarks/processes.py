"""What a worker and all its processes have used."""

import contextlib

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """Return the process and all below it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of the process and all that live below it, and of those that ended."""
    used = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


def memory_bytes(pid: int) -> int:
    """Return what the process and all below it hold for themselves: shared pages count in part."""
    used = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            used += process.memory_full_info().pss
    return used
