"""A worker that runs to its end; the command lines of a worker's processes, and their freeze."""

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from handler.engine.processes import is_running
from tests.support.environment import ROOT, START_SECONDS, worker_command


def run_worker(
    *arguments: str, cwd: Path = ROOT, **environ: str
) -> "subprocess.CompletedProcess[str]":
    """Run a worker to its end without a platform."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "SGLANG_LOGGING_LEVEL": "ERROR"}
    return subprocess.run(
        [*worker_command(environ.get("ENGINE", "vllm")), *arguments],
        env={"PYTHONPATH": str(ROOT), **quiet, **environ},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


def arguments(process: psutil.Process) -> str:
    """Return the command line, or "" if the process has ended, as an engine's helpers may."""
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one of these
        return " ".join(process.cmdline())
    return ""


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended; this machine's init may be late to reap an orphan."""
    return [process for process in processes if is_running(process)]


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, or has ended."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if mask := re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE):
            return bool(int(mask[1], 16) >> (number - 1) & 1)
    return True


@contextlib.contextmanager
def frozen(processes: Iterable[psutil.Process]) -> Iterator[None]:
    """Stop processes, and let them go on at the end."""
    processes = list(processes)
    try:
        _signal(processes, signal.SIGSTOP)
        yield
    finally:
        _signal(processes, signal.SIGCONT)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(number)
