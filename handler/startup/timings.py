"""The stages of a start: when each began and how long it took. Stages may overlap.

Times are wall-clock times, because other processes and machines measure some of the stages.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StartupStage:
    """One stage; `began` is in seconds since the epoch."""

    name: str
    began: float
    seconds: float


class StartupTimings:
    """The stages of one start; any thread may add one.

    Args:
        began: the start of the process, in seconds since the epoch.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self._stages: list[StartupStage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body; a stage that fails is not added."""
        began, started = time.time(), time.monotonic()
        yield
        self.add(StartupStage(name, began, time.monotonic() - started))

    def add(self, *stages: StartupStage) -> None:
        """Add stages that were timed elsewhere."""
        self._stages += stages

    def since(self, began: float, name: str) -> None:
        """Add a stage from `began`, in seconds since the epoch, until now."""
        self.add(StartupStage(name, began, time.time() - began))

    def __iter__(self) -> Iterator[StartupStage]:
        """Iterate over the stages in the order in which they began."""
        return iter(sorted(self._stages, key=lambda stage: stage.began))

    def __str__(self) -> str:
        """Return a table of the stages, in seconds from the start of the process."""
        stages = list(self)
        total = max((stage.began + stage.seconds - self.began for stage in stages), default=0.0)
        width = max((len(stage.name) for stage in stages), default=0)
        rows = [
            f"  {stage.name:<{width}}  {stage.began - self.began:7.2f}  {stage.seconds:7.2f}"
            for stage in stages
        ]
        head = f"  {'':<{width}}     from     took"
        return "\n".join([f"the start took {total:.2f} s", head, *rows])


def process_start_time() -> float:
    """Return when this process was started, in seconds since the epoch, to a hundredth."""
    # Field 22 of /proc/PID/stat, in clock ticks since boot; the name in brackets may have spaces.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
