"""The command lines of a worker's processes."""

import contextlib

import psutil


def arguments(process: psutil.Process) -> str:
    """Return the command line, or "" if the process has ended, as an engine's helpers may."""
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one of these
        return " ".join(process.cmdline())
    return ""
