"""The second start, after the GPU's memory ran out at the first: the worker's process once more.

exec puts a new program into the process, which keeps its number, its terminal and its log, so
nothing of the first engine is left: no thread, no metrics, no memory of a GPU. Its environment is
that of the first start with the lowered settings, and with VARIABLE, which says that they are
lowered and that no third start follows.

The ports are closed until the new program listens, as before any start.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import NoReturn

from handler.engine.interface import AUTO, LoweredSetting
from handler.errors import EngineStartFailed

VARIABLE = "LLM_WORKER_SECOND_START"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STDERR = 2


class OutOfGpuMemory(EngineStartFailed):
    """The first start failed, and a second one may not.

    Attributes:
        lowered: for the second start.
    """

    def __init__(self, message: str, lowered: Iterable[LoweredSetting]) -> None:
        super().__init__(message)
        self.lowered = tuple(lowered)


@dataclass(frozen=True)
class SecondStart:
    """What the first start hands on.

    Attributes:
        began: in seconds since the epoch.
    """

    began: float
    lowered: tuple[LoweredSetting, ...]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "SecondStart | None":
        """Return what this start is, None if it is the first."""
        if VARIABLE not in environ:
            return None
        began, lowered = json.loads(environ[VARIABLE])
        return cls(began, tuple(LoweredSetting(*each) for each in lowered))

    def environment(self) -> dict[str, str]:
        """Return the variables that the first start adds."""
        handed_on = json.dumps([self.began, [astuple(each) for each in self.lowered]])
        return {VARIABLE: handed_on, **{each.name: each.value for each in self.lowered}}


def begin(lowered: tuple[LoweredSetting, ...], environ: Mapping[str, str]) -> NoReturn:
    """Begin the second start; what the first one has opened must be closed.

    Args:
        lowered: for the second start.
        environ: of the first start, as it was at its begin.
    """
    # The new program takes a signal that comes meanwhile, once it has its handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    sys.stdout.flush()
    sys.stderr.flush()
    for name in os.listdir("/proc/self/fd"):  # libraries in C leave files open for it
        if int(name) > STDERR:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)
    variables = {**environ, **SecondStart(time.time(), lowered).environment()}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], variables)


def values(lowered: Iterable[LoweredSetting], model_tokens: int) -> dict[str, float]:
    """Return the value of each lowered setting; the engine may have kept the length.

    Args:
        lowered: by the second start, or by the check before a start.
        model_tokens: the length that the engine has.
    """
    found = {}
    for each in lowered:
        after = model_tokens if each.after == AUTO else each.after
        if after < each.before or each.after != AUTO:
            found[each.name] = after
    return found
