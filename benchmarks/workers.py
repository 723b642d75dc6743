"""The workers that are compared, and the environment that they share."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.environment import clean_environment, worker_command

ENGINES: Mapping[str, Mapping[str, str]] = {
    # The engine's flags of one GPU: the core and its one rank in one process.
    "vllm": {
        # A KV cache of 131,072 of the model's tokens: a larger one would be filled with zeros for
        # half a second or for four, whichever the machine's host has memory at hand.
        "ENGINE_ARGS": "--max-num-seqs 256 --max-model-len 2048 --distributed-executor-backend uni "
        "--kv-cache-memory-bytes 67108864",
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # without it "uni" is not taken on a CPU
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    },
    "sglang": {
        "ENGINE_ARGS": "--max-running-requests 64 --context-length 2048 --max-total-tokens 32768",
        "SGLANG_LOGGING_LEVEL": "WARNING",
    },
}


@dataclass(frozen=True)
class Contender:
    """A worker's name in the results, its command, and how long its end may take.

    Attributes:
        stop_within_seconds: then it is killed; None where that is an error.
    """

    name: str
    command: tuple[str, ...]
    stop_within_seconds: float | None = None


WORKER = Contender("worker", tuple(worker_command("vllm")))
SGLANG_WORKER = Contender("worker-sglang", tuple(worker_command("sglang")))
# It does not end in order.
BASELINE = Contender("baseline", (sys.executable, "-m", "benchmarks.proxy"), 1.0)


def environment(model: Path, engine: str = "vllm", **more: str) -> dict[str, str]:
    """Return a worker's whole environment, the same for every worker with that engine."""
    shared = {
        "ENGINE": engine,
        "MODEL_NAME": str(model),
        "MAX_CONCURRENCY": "256",
        "OMP_NUM_THREADS": "1",
    }
    return clean_environment(**shared | dict(ENGINES[engine]) | more)
