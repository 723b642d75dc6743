"""A case: what is measured under one name, and the tables that its figures make."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import checkpoint
from benchmarks.endpoint import Endpoint, serving
from benchmarks.report import Table
from benchmarks.workers import WORKER, Contender, environment
from tests.support.environment import MODELS, NAME

Measured = Mapping[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where the cases run, and how long.

    Attributes:
        folder: for the model, the caches and the logs; it goes afterwards.
        rounds: jobs per stream.
        starts: how often the main case starts each of its contenders.
        jobs: of the memory case.
    """

    folder: Path
    rounds: int
    starts: int
    jobs: int

    def environment(
        self, model: Path | None = None, engine: str = "vllm", /, **more: str
    ) -> dict[str, str]:
        """Return a worker's environment; the model is one that is as good as no work."""
        more.setdefault("VLLM_CACHE_ROOT", str(self.folder / "cache"))
        if model is None:
            return environment(checkpoint(self.folder / "model"), engine, **more)
        return environment(model, engine, **{"VLLM_CPU_KVCACHE_SPACE": "1"} | more)

    @contextmanager
    def serving(
        self, environ: Mapping[str, str], contender: Contender = WORKER
    ) -> Iterator[Endpoint]:
        """Run a worker."""
        with serving(contender, environ, self.folder / f"{contender.name}.log") as endpoint:
            yield endpoint


@dataclass(frozen=True)
class Case:
    """A case of the benchmarks.

    Attributes:
        name: on the command line and of its file.
        what: that is compared, as a heading.
        measure: runs it; what it returns goes through JSON.
        tables: its figures → tables.
    """

    name: str
    what: str
    measure: Callable[[Bench], Measured]
    tables: Callable[[Measured], Sequence[Table]]


def demo(variant: str) -> Path:
    """Return the folder of the demo model's variant: awq, fp8 or bf16."""
    return MODELS / f"{NAME}-{variant}"
