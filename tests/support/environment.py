"""What the workers of the tests are started with: models, commands, environments."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
NAME = "smollm2-135m-instruct"
PYTHON = {"vllm": sys.executable, "sglang": str(ROOT / ".venv-sglang/bin/python")}
WORKER = [sys.executable, "-m", "handler"]
# SGLang computes no quantized layers on a CPU, so there the demo model is the unquantized one.
VARIANT = {"vllm": "awq", "sglang": "bf16"}
START_SECONDS = 240  # a cold machine compiles bytecode and inspects the model class first


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment of a container: what this process needs to run, and `more`."""
    kept = {"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"}
    return {name: value for name, value in os.environ.items() if name in kept} | more


def worker_environment(variant: str = "awq", engine: str = "vllm", **more: str) -> dict[str, str]:
    """Return the environment of a worker with a variant of the demo model."""
    # One thread: two threads that wait for each other are slow where others use the same cores.
    defaults = {"MODEL_NAME": str(MODELS / f"{NAME}-{variant}"), "OMP_NUM_THREADS": "1"}
    return clean_environment(**defaults | {"ENGINE": engine} | more)


def worker_command(engine: str) -> list[str]:
    """Return the worker's command in the Python environment of an engine."""
    return [PYTHON[engine], "-m", "handler"]
