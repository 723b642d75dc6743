"""The engine's processes on this machine: whether they run, and how they are ended.

The engines report a dead process late or never: vLLM reports a dead rank only after it has waited
for the others, SGLang never answers the pending requests.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable

import psutil


def all_running(processes: Iterable[psutil.Process]) -> Callable[[], bool]:
    """Return a function that says whether all of these processes still run."""
    watched = list(processes)
    return lambda: all(is_running(process) for process in watched)


def is_running(process: psutil.Process) -> bool:
    """Whether a process has not ended; a zombie has, and waits for its parent."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants_named(prefix: str) -> list[psutil.Process]:
    """Return the descendants of this process whose name starts with a prefix."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if _name(process).startswith(prefix)
    ]


def kill_children(others: Collection[int], timeout_seconds: float) -> None:
    """Kill the children of this process with their descendants, and wait for their ends.

    Args:
        others: the process ids of children that stay.
        timeout_seconds: for the wait.
    """
    left = [
        process
        for child in psutil.Process().children()
        if child.pid not in others
        for process in (child, *_descendants(child))
    ]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=timeout_seconds)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""
