"""The stages of a start: when each began and how long it took. Stages may overlap.

Times are wall-clock times, because other processes and machines measure some of the stages.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIN_GAP_SECONDS = 0.01


@dataclass(frozen=True)
class StartupStage:
    """One stage.

    Attributes:
        name: in the table and in the metrics.
        began: in seconds since the epoch.
        seconds: how long it took.
        beside: whether it ran on a thread or in a process of its own, beside other stages.
    """

    name: str
    began: float
    seconds: float
    beside: bool = False

    @property
    def ended(self) -> float:
        """Its end, in seconds since the epoch."""
        return self.began + self.seconds


class StartupTimings:
    """The stages of one start; any thread may add one.

    Args:
        began: the start of the process, in seconds since the epoch.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self._stages: list[StartupStage] = []

    @contextmanager
    def stage(self, name: str, *, beside: bool = False) -> Iterator[None]:
        """Time the body; a stage that fails is not added."""
        began, started = time.time(), time.monotonic()
        yield
        self.add(StartupStage(name, began, time.monotonic() - started, beside))

    def add(self, *stages: StartupStage) -> None:
        """Add stages that were timed elsewhere."""
        self._stages += stages

    def since(self, began: float, name: str) -> None:
        """Add a stage from `began`, in seconds since the epoch, until now."""
        self.add(StartupStage(name, began, time.time() - began))

    def __iter__(self) -> Iterator[StartupStage]:
        """Iterate over the stages in the order in which they began."""
        return iter(sorted(self._stages, key=lambda stage: stage.began))

    @property
    def total_seconds(self) -> float:
        """From the start of the process to the end of the last stage."""
        return max((stage.ended for stage in self._stages), default=self.began) - self.began

    def sequence(self) -> list[StartupStage]:
        """Return what the start did one after the other, without a gap: the sum is the total.

        A stage that consists of others is not in it, and of stages that overlap the later one has
        only what is left of it. A gap has the name of a stage that ran beside the others, where one
        did, and else of the stage that it precedes.
        """
        steps: list[StartupStage] = []
        reached = self.began
        parts = [each for each in self if not each.beside and not self._has_parts(each)]
        for stage in parts:
            if stage.began - reached >= MIN_GAP_SECONDS:  # a shorter one counts with the stage
                gap = list(self._gap(reached, stage.began, stage.name))
                steps += gap if gap[-1].seconds >= MIN_GAP_SECONDS else gap[:-1]
                reached = steps[-1].ended
            if stage.ended > reached:
                steps.append(StartupStage(stage.name, reached, stage.ended - reached))
                reached = stage.ended
        return [*steps, *self._gap(reached, self.began + self.total_seconds, "the end")]

    def _has_parts(self, whole: StartupStage) -> bool:
        return any(
            whole.began <= part.began
            and part.ended <= whole.ended
            and 0 < part.seconds < whole.seconds
            for part in self._stages
            if not part.beside
        )

    def _gap(self, began: float, ended: float, following: str) -> Iterator[StartupStage]:
        """Yield the stages that ran beside others in a gap, and what is left of the gap."""
        for stage in self:
            if not stage.beside or stage.ended <= began or stage.began >= ended:
                continue
            if stage.began > began:
                yield StartupStage(f"before {stage.name}", began, stage.began - began)
                began = stage.began
            until = min(stage.ended, ended)
            yield StartupStage(stage.name, began, until - began)
            began = until
        if ended > began:
            yield StartupStage(f"before {following}", began, ended - began)

    def __str__(self) -> str:
        """Return a table in seconds: what the total consists of, and the other stages below it."""
        steps = self.sequence()
        shown = {step.name for step in steps}
        others = [stage for stage in self if stage.beside or stage.name not in shown]
        width = max((len(stage.name) for stage in (*steps, *others)), default=0)

        def rows(stages: Iterable[StartupStage]) -> list[str]:
            return [
                f"  {stage.name:<{width}}  {stage.began - self.began:7.2f}  {stage.seconds:7.2f}"
                for stage in stages
            ]

        head = f"  {'':<{width}}     from     took"
        lines = [f"the start took {self.total_seconds:.2f} s", head, *rows(steps)]
        return "\n".join([*lines, *(["of it, or beside it", *rows(others)] if others else [])])


def process_start_time(pid: int | None = None) -> float:
    """Return when a process (None: this one) was started, in seconds since the epoch.

    To a hundredth of a second.
    """
    # Field 22 of /proc/PID/stat, in clock ticks since boot; the name in brackets may have spaces.
    stat = Path(f"/proc/{'self' if pid is None else pid}/stat")
    fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
