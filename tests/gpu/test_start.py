"""The start of vLLM's CUDA build: its kinds of GPUs, its stages, several GPUs, and its failure."""

import re
import subprocess

import pytest

from simulated_gpu.gpu import GPUS
from tests.gpu.conftest import ANSWER, PYTHON
from tests.support.checkpoints import tiny_llama
from tests.support.environment import ROOT, START_SECONDS


def run(environment):
    """Run a worker that answers test_input.json."""
    return subprocess.run(
        [PYTHON, "-m", "handler"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


def test_a_slow_load_is_a_stage_of_the_start(gpu_environment):
    """An FP8 checkpoint on an L4, whose weights take two seconds."""
    done = run(gpu_environment(GPUS["l4"], variant="fp8", SIMULATED_LOAD_SECONDS="2"))
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout
    assert re.search(r"INFO    .*\bweights +\S+ +2\.0", done.stdout), done.stdout


def test_without_the_simulated_engine_a_start_ends_at_the_first_call_of_cuda(gpu_environment):
    """There is a GPU for NVML, and none for CUDA."""
    done = run(gpu_environment(executor=False, VLLM_LOGGING_LEVEL="CRITICAL"))
    assert done.returncode == 4
    assert "\nRuntimeError: Found no NVIDIA driver on your system." in done.stderr
    # vLLM has seen the end of its core by then, or not yet: {} or {'EngineCore': 1}.
    assert done.stderr.splitlines()[-1].startswith(
        "The engine did not start: Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {"
    )


@pytest.fixture(scope="module")
def splittable(tmp_path_factory):
    """A model with eight heads, four of them for keys and values."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-llama"
    return tiny_llama(folder, num_attention_heads=8, num_key_value_heads=4)


@pytest.mark.parametrize(("size", "gpus"), [("2", 2), ("auto", 4)])
def test_several_gpus_share_a_model(gpu_environment, splittable, size, gpus):
    environment = gpu_environment(
        count=gpus,
        MODEL_NAME=str(splittable),
        TENSOR_PARALLEL_SIZE=size,
        VLLM_LOGGING_LEVEL="INFO",
    )
    done = run(environment)
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout
    assert f"tensor_parallel_size={gpus}," in done.stdout + done.stderr


def test_more_gpus_than_the_heads_allow_end_with_code_2(gpu_environment):
    """The demo model has nine heads, three of them for keys and values."""
    done = run(gpu_environment(count=2, TENSOR_PARALLEL_SIZE="auto"))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "TENSOR_PARALLEL_SIZE='auto': the worker has 2 GPUs for it, and the model's 9 attention "
        "heads (3 of them for keys and values) can be split over 1 GPUs.",
    )
