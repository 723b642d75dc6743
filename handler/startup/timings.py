"""What the start was made of: each stage, when it began and how long it took. StartupTimings may overlap.

Times are the wall clock's, for stages of other processes, and of other machines, are among them.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StartupStage:
    """One stage.

    Attributes:
        name: what was done.
        began: seconds since the epoch.
        seconds: how long it took.
    """

    name: str
    began: float
    seconds: float


class StartupTimings:
    """The stages of one start; any thread may add one.

    Args:
        began: the process's start, in seconds since the epoch.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self._stages: list[StartupStage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        began, started = time.time(), time.monotonic()
        yield
        self.add(StartupStage(name, began, time.monotonic() - started))

    def add(self, *stages: StartupStage) -> None:
        """Take stages that something else has timed."""
        self._stages += stages

    def since(self, began: float, name: str) -> None:
        """Add a stage from `began`, in seconds since the epoch, to now."""
        self.add(StartupStage(name, began, time.time() - began))

    def __iter__(self) -> Iterator[StartupStage]:
        """Go through the stages as they began."""
        return iter(sorted(self._stages, key=lambda stage: stage.began))

    def __str__(self) -> str:
        """Return the table: from when on, counted from the process's start, and how long."""
        stages = list(self)
        total = max((stage.began + stage.seconds - self.began for stage in stages), default=0.0)
        width = max((len(stage.name) for stage in stages), default=0)
        rows = [
            f"  {stage.name:<{width}}  {stage.began - self.began:7.2f}  {stage.seconds:7.2f}"
            for stage in stages
        ]
        head = f"  {'':<{width}}     from     took"
        return "\n".join([f"the start took {total:.2f} s", head, *rows])


def process_began() -> float:
    """Return when this process was started, in seconds since the epoch, to a hundredth."""
    # Linux counts in ticks since the machine's own start. The name in brackets may hold blanks.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - began)
