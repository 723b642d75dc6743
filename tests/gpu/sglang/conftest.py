"""Workers of SGLang's CUDA build beside simulated GPUs: `make test-gpu-sglang`."""

import json
from pathlib import Path

import pytest

from simulated_gpu.gpu import GPUS, SimulatedGpu, build_libraries, host_environment
from tests.support.environment import MODELS, ROOT, worker_environment

PYTHON = str(ROOT / ".venv-sglang-cuda/bin/python")
ANSWER = "The capital of France is Paris."


@pytest.fixture(scope="session")
def sglang_environment(tmp_path_factory):
    """Return the environment of a worker beside some GPUs; every answer is ANSWER."""
    libraries = tmp_path_factory.mktemp("libraries")
    build_libraries(libraries)
    cache_root = tmp_path_factory.mktemp("cache")

    def environment(
        gpu: SimulatedGpu = GPUS["h100"],
        *,
        variant: str = "awq",
        executor: bool = True,
        **more: str,
    ) -> dict[str, str]:
        host = host_environment(libraries, gpu, engine="sglang", executor=executor)
        defaults = {
            "CACHE_ROOT": str(cache_root),
            "SGLANG_LOGGING_LEVEL": "ERROR",
            "SIMULATED_TOKENS": json.dumps(tokens(ANSWER)),
        }
        return worker_environment(variant, "sglang", **{**host, **defaults, **more})

    return environment


def tokens(text: str) -> list[int]:
    """Return the demo model's token ids of a text."""
    from tokenizers import Tokenizer

    folder = Path(MODELS, "smollm2-135m-instruct-awq")
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
