"""A worker that runs to its end, and the command lines of a worker's processes."""

import contextlib
import subprocess
from pathlib import Path

import psutil

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
