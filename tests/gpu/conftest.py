"""Workers of vLLM's CUDA build beside simulated GPUs: `make test-gpu`."""

from pathlib import Path

import pytest

from simulated_gpu.gpu import GPUS, LIBRARIES, SimulatedGpu
from tests.support.environment import (
    CUDA_PYTHON,
    SIMULATED_ANSWER,
    simulated_host,
    worker_environment,
)

PYTHON = CUDA_PYTHON
ANSWER = SIMULATED_ANSWER


@pytest.fixture(scope="session")
def libraries() -> Path:
    """The folder of the stand-ins for NVML and the CUDA driver."""
    simulated_host()
    return LIBRARIES.expanduser()


@pytest.fixture(scope="session")
def gpu_environment():
    """Return the environment of a worker beside some GPUs; every answer is ANSWER."""

    def environment(
        gpu: SimulatedGpu = GPUS["h100"],
        count: int = 1,
        *,
        variant: str = "awq",
        executor: bool = True,
        **more: str,
    ) -> dict[str, str]:
        host = simulated_host(gpu, count, executor=executor)
        return worker_environment(variant, **{**host, **more})

    return environment
