"""A program that is measured, with all the processes that it starts."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.devices import ROOT

EXIT_TIMEOUT_SECONDS = 10.0


def run_logged(
    command: Sequence[str | Path],
    environ: Mapping[str, str],
    log: Path,
    timeout_seconds: float,
    *,
    folder: Path = ROOT,
) -> int | None:
    """Run a process with its output in a log; return its exit code, None if it was killed.

    Nothing of its group is left afterwards: the device's memory must be free again.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            deadline = time.monotonic() + EXIT_TIMEOUT_SECONDS
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                while time.monotonic() < deadline:
                    os.killpg(process.pid, 0)
                    time.sleep(0.1)
