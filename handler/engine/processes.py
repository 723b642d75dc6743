"""Whether the engine's processes run.

An engine's own word can come late: vLLM says that a rank has died only after it has waited for the
others, SGLang never says it to who waits for an answer. This module knows processes on this
machine alone.
"""

from collections.abc import Callable, Iterable

import psutil


def all_run(processes: Iterable[psutil.Process]) -> Callable[[], bool]:
    """Return a check of processes: one that has ended, with whatever code, does not come back."""
    watched = list(processes)
    return lambda: all(_runs(process) for process in watched)


def descendants_named(prefix: str) -> list[psutil.Process]:
    """Return the processes below this one whose name begins so."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if _name(process).startswith(prefix)
    ]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""
