"""vLLM's core is a fork of the worker, which has done nothing by then that a fork must not have."""

import json
import subprocess

import pytest

from handler.startup.build_jobs import build_jobs_environment
from simulated_gpu.gpu import GPUS
from tests.gpu.conftest import ANSWER, PYTHON
from tests.gpu.test_start import run
from tests.support.environment import MODELS, NAME, ROOT, START_SECONDS
from tests.support.hub import Repository, running_hub

INITIALISE_CUDA = "import torch; torch.cuda._initialized = True  # no driver would do it here"


def state_of(environment, *command):
    """Return what a Python process prints as JSON in its last line."""
    done = subprocess.run(
        [PYTHON, *command],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub():
    """A hub with the demo model."""
    with running_hub(public=Repository(MODELS / f"{NAME}-awq")) as hub:
        yield hub


def test_our_own_imports_start_no_thread_and_do_not_import_torch(gpu_environment):
    code = (
        "import json, os, sys, threading, handler.command_line\n"
        "threads = [threading.active_count(), len(os.listdir('/proc/self/task'))]\n"
        "print(json.dumps([threads, 'torch' in sys.modules, 'runpod' in sys.modules]))"
    )
    environment = gpu_environment(OPENBLAS_NUM_THREADS="1")
    assert state_of(environment, "-c", code) == [[1, 1], False, False]


@pytest.mark.parametrize(
    ("ranks", "from_hub"),
    [(1, False), (3, False), (1, True)],  # the model has three heads
    ids=["1", "3", "model from the hub"],
)
def test_at_the_fork_cuda_is_not_initialised_and_no_other_thread_of_ours_works(
    gpu_environment, tmp_path, hub, ranks, from_hub
):
    download = {
        "MODEL_NAME": "org/public",
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
    }
    environment = gpu_environment(
        GPUS["l4"],
        ranks,
        **download if from_hub else {},
        TENSOR_PARALLEL_SIZE=str(ranks),
        SERVE_MODE="queue",
        RUNPOD_WEBHOOK_GET_JOB="http://127.0.0.1:9/job",
        RUNPOD_WEBHOOK_POST_OUTPUT="http://127.0.0.1:9/output",
        PREFETCH_WEIGHTS="false",  # its threads hold no lock while they read
        OPENBLAS_NUM_THREADS="1",  # the pools of NumPy and OpenCV, which OpenBLAS ends at a fork
    )
    assert state_of(environment, "-m", "tests.gpu.at_fork") == {
        "cuda_is_initialised": False,
        "cuda_fails_in_the_fork": False,
        # The main thread waits, and the engine's thread forks.
        "python_threads": ["MainThread", "engine"],
        # Three more are ZeroMQ's for vLLM's client, and two for its handshake with the core.
        "threads": 7,
        "sdk_is_imported": False,
        "compilers": build_jobs_environment(ranks)["MAX_JOBS"],
    }


@pytest.mark.parametrize(("gpu", "variant"), [("l4", "awq"), ("h100", "fp8"), ("b200", "bf16")])
def test_nothing_calls_the_driver_before_the_fork(gpu_environment, tmp_path, gpu, variant):
    """A call of cuInit would make CUDA fail in the fork, and torch would not know of it."""
    calls = tmp_path / "calls"
    environment = gpu_environment(
        GPUS[gpu], variant=variant, QUANTIZATION="", SIMULATED_CUDA_CALLS=str(calls)
    )
    state_of(environment, "-m", "tests.gpu.at_fork")
    assert not calls.exists()
    code = "import torch; print(str(torch.cuda.is_available()).lower())"
    assert state_of(environment, "-c", code) is False
    assert "cuGetProcAddress" in calls.read_text()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_table_of_stages_adds_up(gpu_environment, method):
    environment = gpu_environment(
        GPUS["l4"], VLLM_LOGGING_LEVEL="ERROR", VLLM_WORKER_MULTIPROC_METHOD=method
    )
    lines = run(environment).stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if "the start took" in line)
    total = float(lines[start].split()[-2])
    end = next(index for index, line in enumerate(lines) if "of it, or beside it" in line)
    stages = [line.split(maxsplit=2)[2].rsplit(maxsplit=2) for line in lines[start + 2 : end]]
    names = [name for name, _, _ in stages]
    assert [name for name in names if not name.startswith("before ")] == [
        *("interpreter", "model", "imports", "flags", "configuration", method),
        *("imports of the rank", "device", "weights", "compile and measure memory", "KV cache"),
        *("graphs", "app", "warm-up"),
    ]
    took = [float(seconds) for _, _, seconds in stages]
    assert sum(took) == pytest.approx(total, abs=0.01 * len(took))


def start_line(environment):
    """Return what the worker logs of the start method, and stop it there."""
    command = [PYTHON, "-m", "handler"]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as worker:
        line = next(line for line in worker.stdout if "starting the engine" in line)
        worker.terminate()
        worker.communicate()
    return line.split(maxsplit=2)[2].rstrip()


def test_the_core_is_spawned_where_cuda_is_initialised(gpu_environment, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INITIALISE_CUDA)
    environment = gpu_environment(GPUS["l4"])
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    assert start_line(environment) == (
        "starting the engine: spawn because CUDA was initialised in the worker's process"
    )


def test_the_core_is_spawned_where_the_driver_is_initialised(gpu_environment):
    assert start_line(gpu_environment(GPUS["l4"], SIMULATED_CUDA_INITIALISED="1")) == (
        "starting the engine: spawn because CUDA was initialised in the worker's process"
    )


def test_the_method_that_the_user_sets_wins(gpu_environment):
    assert start_line(gpu_environment(VLLM_WORKER_MULTIPROC_METHOD="spawn")) == (
        "starting the engine: spawn because VLLM_WORKER_MULTIPROC_METHOD is set"
    )


def test_an_empty_method_counts_as_not_set(gpu_environment):
    assert start_line(gpu_environment(VLLM_WORKER_MULTIPROC_METHOD="")) == (
        "starting the engine: fork"
    )


def test_two_replicas_and_their_coordinator_are_forks(gpu_environment):
    done = run(gpu_environment(GPUS["l4"], 2, DATA_PARALLEL_SIZE="2", VLLM_LOGGING_LEVEL="ERROR"))
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout
    assert "starting the engine: fork\n" in done.stdout
