"""What SGLang's CUDA build chooses for each kind of GPU, and what the worker refuses before it."""

import dataclasses
import json
import subprocess

import pytest

from handler.startup.build_jobs import build_jobs_environment
from simulated_gpu.gpu import GPUS
from tests.gpu.sglang.conftest import PYTHON
from tests.support.environment import ROOT, START_SECONDS, clean_environment

HOPPER = {
    "attention_backend": "fa3",
    "page_size": 1,
    "chunked_prefill_size": 8192,
    "mem_fraction_static": 0.83,
    "graph_batch": 256,
}
ADA = {
    "attention_backend": "flashinfer",
    "page_size": 1,
    "chunked_prefill_size": 4096,
    "mem_fraction_static": 0.684,
    "graph_batch": 48,
}
BLACKWELL = {
    "attention_backend": "trtllm_mha",
    "page_size": 64,
    "chunked_prefill_size": 16384,
    "mem_fraction_static": 0.854,
    "graph_batch": 512,
}
AMPERE = HOPPER | {"attention_backend": "flashinfer"}
AWQ = {"quantization": "awq_marlin", "scheme": "AWQMarlinLinearScheme"}
FP8 = {"quantization": "compressed-tensors", "scheme": "CompressedTensorsW8A8Fp8"}
FP8_WEIGHTS_ONLY = FP8 | {"scheme": "CompressedTensorsW8A16Fp8"}


@pytest.mark.parametrize(
    ("gpu", "variant", "chosen"),
    [
        pytest.param("a100", "awq", AMPERE | AWQ, id="sm_80-awq"),
        pytest.param("a100", "fp8", AMPERE | FP8_WEIGHTS_ONLY, id="sm_80-fp8"),
        pytest.param("l4", "fp8", ADA | FP8, id="sm_89-fp8"),
        pytest.param("h100", "awq", HOPPER | AWQ, id="sm_90-awq"),
        pytest.param("h100", "fp8", HOPPER | FP8, id="sm_90-fp8"),
        pytest.param("b200", "awq", BLACKWELL | AWQ, id="sm_100-awq"),
        pytest.param("b200", "fp8", BLACKWELL | FP8, id="sm_100-fp8"),
    ],
)
def test_sglang_chooses_for_the_gpu(sglang_environment, gpu, variant, chosen):
    environment = sglang_environment(GPUS[gpu], variant=variant)
    done = run("-m", "tests.gpu.sglang.resolved", env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "device": "cuda",
        "sampling_backend": "flashinfer",
        "disable_overlap_schedule": False,
        "compilers": build_jobs_environment(1)["MAX_JOBS"],
        **chosen,
    }


def test_its_parser_has_the_flags_of_the_cpu_build(sglang_environment):
    """The tests of the CPU build check each flag of the worker, so they hold here as well."""
    code = (
        "from handler.engine.sglang.flags import engine_flags; print(sorted(engine_flags().names))"
    )
    cuda = run("-c", code, env=sglang_environment())
    cpu = run(
        "-c",
        code,
        python=str(ROOT / ".venv-sglang/bin/python"),
        env=clean_environment(SGLANG_USE_CPU_ENGINE="1"),
    )
    assert cuda.stdout.splitlines()[-1] == cpu.stdout.splitlines()[-1], cuda.stderr


def test_a_model_larger_than_the_gpu_is_refused(sglang_environment, tmp_path):
    """In one line, also where Triton finds its module that the first start has compiled."""
    small = dataclasses.replace(GPUS["l4"], memory_mib=200)
    environment = sglang_environment(small, variant="bf16", CACHE_ROOT=str(tmp_path))
    for _ in range(2):
        done = run("-m", "handler", env=environment)
        assert (done.returncode, done.stderr) == (
            4,
            "smollm2-135m-instruct-bf16 has 0.3 GB of weights, 0.3 GB per GPU; the engine may use "
            "0.2 of 0.2 GB per NVIDIA L4: 0.1 GB are missing; use a larger GPU, or a checkpoint "
            "with fewer bits (AWQ, FP8).\n",
        )


def test_without_a_driver_it_does_not_start(sglang_environment, tmp_path):
    done = run("-m", "handler", env=sglang_environment(LD_LIBRARY_PATH=str(tmp_path)))
    assert (done.returncode, done.stdout, done.stderr) == (
        4,
        "",
        "There is no NVIDIA driver in this container: start it with `--gpus all`, on a host with "
        "an NVIDIA GPU.\n",
    )


def test_without_the_simulated_engine_the_last_line_has_the_schedulers_own_cause(
    sglang_environment,
):
    """SGLang says only that a scheduler died, and logs the rest in its process."""
    done = run("-m", "handler", env=sglang_environment(executor=False))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        4,
        "The engine did not start: ValueError: ProcessGroupNCCL is only supported with GPUs, no "
        "GPUs found!",
    )


def test_a_kv_cache_without_room_is_said_with_the_setting_that_helps(sglang_environment):
    """It is raised in the scheduler, twice, and SGLang names a flag."""
    done = run("-m", "handler", env=sglang_environment(GPUS["l4"], SIMULATED_KV_CACHE_GIB="0"))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        4,
        "The engine did not start: RuntimeError: Not enough memory. Please try to increase "
        "MEM_FRACTION_STATIC. The second start had CHUNKED_PREFILL_SIZE 4096 → 3840, "
        "MEM_FRACTION_STATIC 0.684 → 0.701. To start it, use a larger GPU, more GPUs "
        "(TENSOR_PARALLEL_SIZE), or a checkpoint with fewer bits (AWQ, FP8).",
    )


def test_a_simulated_gpu_says_that_it_computes_nothing(sglang_environment):
    code = (
        "import sglang, torch; from simulated_gpu import torch_cuda\n"
        "try: torch.ones(1, device='cuda')\n"
        "except RuntimeError as error: print(str(error) == torch_cuda.NO_DEVICE)"
    )
    assert run("-c", code, env=sglang_environment()).stdout == "True\n"


def run(*arguments: str, env: dict[str, str], python: str = PYTHON) -> subprocess.CompletedProcess:
    """Run Python in the environment of SGLang's CUDA build."""
    return subprocess.run(
        [python, *arguments],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
