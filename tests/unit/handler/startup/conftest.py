"""Processes beside simulated GPUs: pynvml is the real one, NVML and the driver stand in."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulated_gpu.gpu import GPUS, SimulatedGpu, build_libraries
from tests.support.environment import ROOT, clean_environment


@pytest.fixture(scope="session")
def libraries(tmp_path_factory) -> Path:
    """The folder of the two libraries."""
    folder = tmp_path_factory.mktemp("libraries")
    build_libraries(folder)
    return folder


@pytest.fixture
def run_beside_gpus(libraries) -> Callable[..., str]:
    """Return a function that runs Python code in a process that finds GPUs; it returns stdout."""

    def run(
        code: str,
        gpu: SimulatedGpu = GPUS["h100"],
        count: int = 1,
        *,
        folder: Path = libraries,
        pythonpath: str = str(ROOT),
        **environ: str,
    ) -> str:
        variables = {
            **gpu.environment(count),
            "LD_LIBRARY_PATH": str(folder),
            "PYTHONPATH": pythonpath,
            **environ,
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=clean_environment(**variables),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
