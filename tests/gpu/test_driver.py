"""A worker on a host whose driver cannot run the CUDA build says so before it imports vLLM."""

from dataclasses import replace

import pytest

from runpod_local import running_platform
from simulated_gpu.gpu import GPUS
from tests.gpu.conftest import PYTHON
from tests.gpu.test_start import run as run_worker
from tests.support.failed_starts import assert_of_this_host

OLD = replace(GPUS["l4"], driver="570.86.15")
NO_DRIVER = (
    "There is no NVIDIA driver in this container: start it with `--gpus all`, on a host with an "
    "NVIDIA GPU."
)


def test_a_worker_without_a_driver_ends_with_code_4(gpu_environment, tmp_path):
    done = run_worker(gpu_environment(LD_LIBRARY_PATH=str(tmp_path)))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"{NO_DRIVER}\n"


@pytest.mark.parametrize(
    ("gpu", "environ", "reason"),
    [
        (GPUS["l4"], {"LD_LIBRARY_PATH": "/none"}, NO_DRIVER),
        (OLD, {"SIMULATED_GPU_CUDA": "12080"}, "The host's NVIDIA driver 570.86.15 runs CUDA 12.8"),
        (GPUS["l4"], {"CUDA_VISIBLE_DEVICES": "1"}, "CUDA_VISIBLE_DEVICES='1' leaves no GPU: "),
    ],
    ids=["no driver", "older driver", "no visible GPU"],
)
def test_such_a_host_is_reported_and_takes_no_job(gpu_environment, gpu, environ, reason):
    with running_platform() as platform:
        worker, given = [PYTHON, "-m", "handler"], gpu_environment(gpu, **environ)
        last = assert_of_this_host(platform, worker, given, 4, "engine")
    assert last.startswith(reason)


@pytest.mark.parametrize(
    ("gpu", "environ", "message"),
    [
        (
            OLD,
            {"SIMULATED_GPU_CUDA": "12080"},
            "The host's NVIDIA driver 570.86.15 runs CUDA 12.8 and older, and PyTorch is built for "
            "CUDA 13.0: choose a host with CUDA 13.0 or newer (on Runpod by the endpoint's "
            "allowedCudaVersions or minCudaVersion).",
        ),
        (
            GPUS["l4"],
            {"CUDA_VISIBLE_DEVICES": "1"},
            "CUDA_VISIBLE_DEVICES='1' leaves no GPU: remove it, or name a GPU that `nvidia-smi -L` "
            "lists.",
        ),
    ],
    ids=["older driver", "no visible GPU"],
)
def test_a_worker_without_a_usable_gpu_ends_with_code_4(gpu_environment, gpu, environ, message):
    done = run_worker(gpu_environment(gpu, **environ))
    assert (done.returncode, done.stdout, done.stderr) == (4, "", message + "\n")
