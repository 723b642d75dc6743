"""What a worker's processes were called with."""

import contextlib

import psutil


def arguments(process: psutil.Process) -> str:
    """Return its command line; nothing if it has ended, as a helper of an engine's may any time."""
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one of these
        return " ".join(process.cmdline())
    return ""
