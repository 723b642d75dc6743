"""What a worker and all its processes have used."""

import contextlib
import re
from pathlib import Path

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
    """Return what the process and all below it hold: pages that they share count once.

    Pages of files are left out. Who else on the machine has the same library in memory would change
    the share of them that counts here.
    """
    used = 0
    for process in tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            kib = dict(re.findall(r"^(Pss_\w+): +(\d+) kB$", rollup, re.MULTILINE))
            used += (int(kib["Pss_Anon"]) + int(kib["Pss_Shmem"])) * 1024
    return used
