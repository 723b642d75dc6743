"""Whether the engine's processes on this machine are running.

The engines report a dead process late or never: vLLM reports a dead rank only after it has waited
for the others, SGLang never answers the pending requests.
"""

from collections.abc import Callable, Iterable

import psutil


def all_running(processes: Iterable[psutil.Process]) -> Callable[[], bool]:
    """Return a function that says whether all of these processes still run."""
    watched = list(processes)
    return lambda: all(_is_running(process) for process in watched)


def descendants_named(prefix: str) -> list[psutil.Process]:
    """Return the descendants of this process whose name starts with a prefix."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if _name(process).startswith(prefix)
    ]


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""
