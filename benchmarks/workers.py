"""The two workers that are compared, with the same model and the same flags of the engine."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import clean_environment
from tests.platform import Platform, running_worker

START_SECONDS = 300.0
# Both have the engine's flags of one GPU: the core and its one rank in one process.
ENGINE_ARGS = "--max-num-seqs 256 --max-model-len 2048 --distributed-executor-backend uni"


@dataclass(frozen=True)
class Contender:
    """One worker's name in the results, and its command."""

    name: str
    command: tuple[str, ...]


OURS = Contender("worker", (sys.executable, "-m", "handler"))
BASELINE = Contender("baseline", (sys.executable, "-m", "benchmarks.proxy"))


@contextmanager
def running(
    contender: Contender, platform: Platform, shared: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker from its start to its end; the baseline does not end in order and is killed."""
    used = False
    try:
        with (
            log.open("ab") as file,
            running_worker(
                platform, contender.command, shared, ready_within_seconds=START_SECONDS, log=file
            ) as worker,
        ):
            yield worker
            used = True
    except TimeoutError:
        if not used or contender is not BASELINE:
            raise


def environment(model: Path, **more: str) -> Mapping[str, str]:
    """Return the environment of both."""
    return clean_environment(
        MODEL_NAME=str(model),
        ENGINE_ARGS=ENGINE_ARGS,
        MAX_CONCURRENCY="256",
        OMP_NUM_THREADS="1",
        TORCH_COMPILE_DISABLE="1",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # without it "uni" is not taken on a CPU
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL="WARNING",
        **more,
    )
