"""The two workers that are compared, with the same model and the same flags of the engine."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.checkpoints import tiny_llama
from tests.conftest import clean_environment

# Both have the engine's flags of one GPU: the core and its one rank in one process.
ENGINE_ARGS = "--max-num-seqs 256 --max-model-len 2048 --distributed-executor-backend uni"


@dataclass(frozen=True)
class Contender:
    """One worker's name in the results, and its command."""

    name: str
    command: tuple[str, ...]


OURS = Contender("worker", (sys.executable, "-m", "handler"))
BASELINE = Contender("baseline", (sys.executable, "-m", "benchmarks.proxy"))


def checkpoint(folder: Path) -> Path:
    """Return a model that is as good as no work: what is left is the engine's and the worker's."""
    return tiny_llama(folder / "tiny-llama")


def environment(model: Path, **more: str) -> Mapping[str, str]:
    """Return the environment of both."""
    return clean_environment(
        MODEL_NAME=str(model),
        ENGINE_ARGS=ENGINE_ARGS,
        MAX_CONCURRENCY="256",
        OMP_NUM_THREADS="1",
        TORCH_COMPILE_DISABLE="1",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL="WARNING",
        **more,
    )
