"""What a host's driver must have, checked without an import of PyTorch."""

import shutil
from dataclasses import replace

import pytest

from handler.startup.driver import check_driver, torch_cuda_version
from simulated_gpu.gpu import GPUS
from tests.support.environment import ROOT

CHECK = """
import os, sys
from handler.errors import EngineStartFailed
from handler.startup.driver import check_driver
try:
    check_driver(os.environ)
except EngineStartFailed as error:
    print(error)
assert "torch" not in sys.modules
"""
CUDA, NVML = "libcuda.so.1", "libnvidia-ml.so.1"
MISSING = (
    "is missing in this container: start it with `--gpus all` and "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility."
)
NO_DRIVER = (
    "There is no NVIDIA driver in this container: start it with `--gpus all`, on a host with an "
    "NVIDIA GPU."
)
OLD_DRIVER = {"SIMULATED_GPU_CUDA": "12080"}


@pytest.fixture
def check(run_beside_gpus, tmp_path):
    """Return a function that runs the check beside a PyTorch that is built for CUDA 13.0."""
    torch = tmp_path / "site" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").touch()
    (torch / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n"
    )

    def run(*args, **kwargs):
        return run_beside_gpus(CHECK, *args, pythonpath=f"{ROOT}:{torch.parent}", **kwargs).strip()

    return run


@pytest.mark.parametrize(
    ("found", "environ", "message"),
    [
        ([], {}, NO_DRIVER),
        ([CUDA], {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}, NO_DRIVER),
        ([NVML], {}, f"The NVIDIA driver's {CUDA} {MISSING}"),
        (
            [CUDA],
            {"NVIDIA_DRIVER_CAPABILITIES": "compute"},
            f"The NVIDIA driver's {NVML} {MISSING}",
        ),
    ],
    ids=["no driver", "the image's own libcuda", "no CUDA", "no NVML"],
)
def test_a_container_without_the_drivers_libraries_is_refused(
    check, libraries, tmp_path, found, environ, message
):
    folder = tmp_path / "found"
    folder.mkdir()
    for name in found:
        shutil.copy(libraries / name, folder)
    assert check(folder=folder, **environ) == message


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            OLD_DRIVER,
            "The host's NVIDIA driver 570.86.15 runs CUDA 12.8 and older, and PyTorch is built for "
            "CUDA 13.0: choose a host with CUDA 13.0 or newer (on Runpod by the endpoint's "
            "allowedCudaVersions or minCudaVersion).",
        ),
        (OLD_DRIVER | {"VLLM_ENABLE_CUDA_COMPATIBILITY": "1"}, ""),
        ({"SIMULATED_GPU_CUDA": "13000"}, ""),
        ({"SIMULATED_GPU_CUDA": "13020"}, ""),
        ({"SIMULATED_GPU_CUDA": "14000"}, ""),
    ],
    ids=["older", "compatibility libraries", "same", "newer", "next"],
)
def test_a_driver_for_an_older_cuda_is_refused(check, environ, message):
    """Unless vLLM loads a newer libcuda, which the image may have."""
    assert check(replace(GPUS["l4"], driver="570.86.15"), **environ) == message


@pytest.mark.parametrize(
    ("count", "environ", "message"),
    [
        (0, {}, "The NVIDIA driver shows no GPU: start the container with `--gpus all`."),
        (
            2,
            {"CUDA_VISIBLE_DEVICES": "2"},
            "CUDA_VISIBLE_DEVICES='2' leaves no GPU: remove it, or name a GPU that `nvidia-smi -L` "
            "lists.",
        ),
        (2, {"CUDA_VISIBLE_DEVICES": "1"}, ""),
    ],
    ids=["none", "hidden", "seen"],
)
def test_a_driver_without_a_visible_gpu_is_refused(check, count, environ, message):
    assert check(GPUS["l4"], count, **environ) == message


def test_a_build_for_cpus_needs_no_driver():
    """The tests' own PyTorch."""
    assert torch_cuda_version() is None
    check_driver({})
