"""Why a process of the engine failed during its start, reported to the worker's process.

The engines only log it in the process that failed: what reaches the worker is "Engine core
initialization failed. See root cause above". So each process of the engine appends the exception
that ends it to a file, which the worker names in a variable. The first one is the cause: other
ranks fail because of it, and the processes above because of them.

A spawned process imports this module before anything else: it must import nothing of an engine.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

from handler.errors import one_line

VARIABLE = "LLM_WORKER_FAILURE_REPORT"
# The steps of a rank's start, which are also stages of the worker's.
DEVICE, WEIGHTS, MEASURE = "device", "weights", "compile and measure memory"
KV_CACHE, GRAPHS = "KV cache", "graphs"
MAX_CHARACTERS = 2_000  # of one exception: a compiler's may be the whole of its output
# Python's and pydantic's errors of what the engine was told to do.
CONFIGURATION_ERRORS = frozenset(
    """
    ValueError TypeError KeyError AttributeError AssertionError NotImplementedError ImportError
    ModuleNotFoundError ValidationError VLLMValidationError
    """.split()
)
# In such an error: a driver, a peer that does not answer, or another process that holds the GPU's
# memory, which another host or a later start may not meet.
HOST_WORDS = re.compile(
    r"CUDA (?:unknown )?error\b|CUDA initialization|CUDA (?:is not |un)available|No CUDA\b|"
    r"not compiled with CUDA|NCCL|NVML|\bdrivers?\b|libcuda|libnvidia|device (?:type|string)\b|"
    r"\bconnections?\b|\btime[ds]? ?out\b|Free memory on device|memory profiling",
    re.IGNORECASE,
)
_is_watching = False


@dataclass(frozen=True)
class Failure:
    """Why the start of the engine failed.

    Attributes:
        errors: `Type: text` of an exception and of its causes, the innermost last.
        step: the step of the start, such as "graphs", empty where it is not known.
        figures: sizes in bytes that the ranks have measured, the smallest of each name.
    """

    errors: tuple[str, ...]
    step: str = ""
    figures: Mapping[str, int] = field(default_factory=dict)

    @property
    def cause(self) -> str:
        return self.errors[-1]

    @property
    def is_lasting(self) -> bool:
        """Whether every host would fail alike: no device, no network and no time is to blame."""
        kind = self.cause.split(":")[0]
        return kind in CONFIGURATION_ERRORS and not HOST_WORDS.search(self.cause)


class FailureReport:
    """The file of one start; use as `with FailureReport() as report:` around it."""

    def __enter__(self) -> "FailureReport":
        from handler.settings.environ import export  # imports much, and no child needs it

        file, self._path = tempfile.mkstemp(prefix="engine-failure-")
        os.close(file)
        export({}, remove=[VARIABLE])
        export({VARIABLE: self._path})
        watch_processes()
        return self

    def __exit__(self, *_: object) -> None:
        from handler.settings.environ import export

        export({}, remove=[VARIABLE])
        os.unlink(self._path)

    def read(self) -> Failure | None:
        """Return the failure that was reported first, None if there is none."""
        with open(self._path, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file if line.endswith("\n")]
        figures: dict[str, int] = {}
        for line in lines:
            for name, size in line.get("figures", {}).items():
                figures[name] = min(size, figures.get(name, size))
        failures = (line for line in lines if "errors" in line)
        if (first := next(failures, None)) is None:
            return None
        return Failure(tuple(first["errors"]), first["step"], figures)


# ---- in the engine's processes ----


def watch_processes() -> None:
    """Report what ends a process of `multiprocessing`: in the forks of this one, or in this one."""
    global _is_watching
    if _is_watching:
        return
    _is_watching = True
    run = BaseProcess.run

    def watched(self: BaseProcess) -> None:
        with reported():
            run(self)

    BaseProcess.run = watched  # type: ignore[method-assign]


@contextlib.contextmanager
def reported(step: str = "") -> Iterator[None]:
    """Report an exception that leaves the block, a step of the start."""
    try:
        yield
    except Exception as error:
        report(error, step)
        raise


def report(error: BaseException, step: str = "") -> None:
    """Report an exception that ends the start of this process."""
    _append({"errors": _texts(error), "step": step})


def report_figures(**sizes: int) -> None:
    """Report sizes in bytes, for the case that the start fails later."""
    _append({"figures": sizes})


def _texts(error: BaseException) -> list[str]:
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        name, text = type(cause).__name__, one_line(str(cause))
        texts.append(f"{name}: {text}"[:MAX_CHARACTERS] if text else name)
        cause = cause.__cause__
    return texts


def _append(line: Mapping[str, Any]) -> None:
    """Append a line in one write; after the start the file is gone, and nobody reads it."""
    with contextlib.suppress(KeyError, OSError):
        file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, (json.dumps(line) + "\n").encode())
        finally:
            os.close(file)
