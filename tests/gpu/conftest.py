"""Workers of vLLM's CUDA build beside simulated GPUs: `make test-gpu`."""

import json
from pathlib import Path

import pytest

from simulated_gpu.gpu import GPUS, SimulatedGpu, build_libraries, host_environment
from tests.support.environment import ROOT, worker_environment

PYTHON = str(ROOT / ".venv-cuda/bin/python")
ANSWER = "The capital of France is Paris."


@pytest.fixture(scope="session")
def libraries(tmp_path_factory) -> Path:
    """The folder of the stand-ins for NVML and the CUDA driver."""
    folder = tmp_path_factory.mktemp("libraries")
    build_libraries(folder)
    return folder


@pytest.fixture(scope="session")
def cache_root(tmp_path_factory) -> Path:
    """What the starts of one run share: vLLM inspects a model class for 15 seconds, then once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def gpu_environment(libraries, cache_root):
    """Return the environment of a worker beside some GPUs; every answer is ANSWER."""

    def environment(
        gpu: SimulatedGpu = GPUS["h100"],
        count: int = 1,
        *,
        variant: str = "awq",
        executor: bool = True,
        **more: str,
    ) -> dict[str, str]:
        host = host_environment(libraries, gpu, count, executor=executor)
        defaults = {"CACHE_ROOT": str(cache_root), "SIMULATED_TOKENS": json.dumps(tokens())}
        return worker_environment(variant, **{**host, **defaults, **more})

    return environment


def tokens(text: str = ANSWER) -> list[int]:
    """Return the demo model's token ids of a text."""
    from tokenizers import Tokenizer

    return (
        Tokenizer.from_file(str(ROOT / "models/smollm2-135m-instruct-awq/tokenizer.json"))
        .encode(text)
        .ids
    )
