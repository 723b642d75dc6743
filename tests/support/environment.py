"""What the workers of the tests are started with: models, commands, environments."""

import json
import os
import sys
from functools import cache
from pathlib import Path

from simulated_gpu.gpu import GPUS, LIBRARIES, SimulatedGpu, build_libraries, host_environment

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
NAME = "smollm2-135m-instruct"
CUDA_PYTHON = str(ROOT / ".venv-cuda/bin/python")
# `make test-gpu`: the tests' workers are of vLLM's CUDA build, beside a simulated GPU.
IS_SIMULATED = os.environ.get("TEST_DEVICE") == "simulated"
PYTHON = (
    {"vllm": CUDA_PYTHON}
    if IS_SIMULATED
    else {"vllm": sys.executable, "sglang": str(ROOT / ".venv-sglang/bin/python")}
)
WORKER = [sys.executable, "-m", "handler"]
SIMULATED_ANSWER = "The capital of France is Paris, France."  # as the CPU build has it
# SGLang computes no quantized layers on a CPU, so there the demo model is the unquantized one.
VARIANT = {"vllm": "awq", "sglang": "bf16"}
START_SECONDS = 600  # a slow machine compiles bytecode and inspects the model class first


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment of a container: what this process needs to run, and `more`."""
    kept = {"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"}
    return {name: value for name, value in os.environ.items() if name in kept} | more


def worker_environment(variant: str = "awq", engine: str = "vllm", **more: str) -> dict[str, str]:
    """Return the environment of a worker with a variant of the demo model."""
    # One thread: two threads that wait for each other are slow where others use the same cores.
    defaults = {"MODEL_NAME": str(MODELS / f"{NAME}-{variant}"), "OMP_NUM_THREADS": "1"}
    if IS_SIMULATED and "SIMULATED_GPUS" not in more:
        defaults |= simulated_host()
    return clean_environment(**defaults | {"ENGINE": engine} | more)


@cache
def simulated_host(
    gpu: SimulatedGpu = GPUS["h100"], count: int = 1, *, executor: bool = True
) -> dict[str, str]:
    """Return the variables of a host with simulated GPUs; each answer is SIMULATED_ANSWER."""
    from tokenizers import Tokenizer

    libraries = LIBRARIES.expanduser()
    build_libraries(libraries)
    tokenizer = Tokenizer.from_file(str(MODELS / f"{NAME}-awq/tokenizer.json"))
    return {
        **host_environment(libraries, gpu, count, executor=executor),
        "SIMULATED_TOKENS": json.dumps(tokenizer.encode(SIMULATED_ANSWER).ids),
        "SIMULATED_KV_CACHE_GIB": "1",
    }


def worker_command(engine: str) -> list[str]:
    """Return the worker's command in the Python environment of an engine."""
    return [PYTHON[engine], "-m", "handler"]
