"""The start of vLLM's CUDA build: kinds of GPUs, stages, several GPUs, pings, Ctrl-C, a failure."""

import http.client
import os
import re
import signal
import subprocess
import threading
from contextlib import contextmanager

import psutil
import pytest

from runpod_local import JobState, running_platform, running_worker
from simulated_gpu.gpu import GPUS
from tests.gpu.conftest import ANSWER, PYTHON
from tests.support.checkpoints import tiny_llama
from tests.support.conditions import wait_until
from tests.support.environment import MODELS, NAME, ROOT, START_SECONDS
from tests.support.http_worker import free_port
from tests.support.processes import running


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
    [seconds] = re.findall(r"INFO    .*\bweights +\S+ +(\d+\.\d)", done.stdout)
    assert float(seconds) >= 2


@pytest.mark.parametrize(("method", "ranks"), [("fork", 1), ("spawn", 3)])
def test_without_the_simulated_engine_a_start_ends_at_the_first_call_of_cuda(
    gpu_environment, method, ranks
):
    """There is a GPU for NVML, and none for CUDA: the last line has the rank's own cause."""
    environment = gpu_environment(
        count=ranks,
        executor=False,
        TENSOR_PARALLEL_SIZE=str(ranks),
        VLLM_WORKER_MULTIPROC_METHOD=method,
        VLLM_LOGGING_LEVEL="CRITICAL",
    )
    done = run(environment)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith(
        "The engine did not start: RuntimeError: Found no NVIDIA driver on your system."
    )


@pytest.fixture(scope="module")
def splittable(tmp_path_factory):
    """Models by their number of heads for keys and values: one of four, and the demo model."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-llama"
    tiny_llama(folder, num_attention_heads=8, num_key_value_heads=4)
    return {4: folder, 3: MODELS / f"{NAME}-awq"}


@pytest.mark.parametrize(
    ("size", "gpus", "heads"), [("2", 2, 4), ("auto", 3, 3), ("4", 4, 4), ("auto", 4, 4)]
)
def test_several_gpus_share_a_model(gpu_environment, splittable, size, gpus, heads):
    environment = gpu_environment(
        count=gpus,
        MODEL_NAME=str(splittable[heads]),
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


@contextmanager
def pinged(port):
    """Ping as fast as one client can until the worker is ready, each time on a new connection.

    Yields the statuses, one for each row of equal ones.
    """
    statuses, ended = [], threading.Event()

    def ping():
        while not ended.is_set() and statuses[-1:] != [200]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
            try:
                connection.request("GET", "/ping")
                status = connection.getresponse().status
            except ConnectionRefusedError:  # the server does not listen yet
                continue
            finally:
                connection.close()
            if status not in statuses[-1:]:
                statuses.append(status)

    client = threading.Thread(target=ping)
    client.start()
    try:
        yield statuses
    finally:
        ended.set()
        client.join()


def test_pings_do_not_disturb_a_start_and_ctrl_c_lets_a_job_finish(gpu_environment):
    """The metrics server answers while the core is forked; a terminal signals every process."""
    port = free_port()
    environment = gpu_environment(GPUS["l4"], METRICS_PORT=str(port), VLLM_LOGGING_LEVEL="ERROR")
    with (
        running_platform(ping_interval_seconds=1) as platform,
        pinged(port) as statuses,
        running_worker(
            platform, [PYTHON, "-m", "handler"], environment, ready_within_seconds=START_SECONDS
        ) as worker,
    ):
        wait_until(lambda: statuses == [204, 200])
        family = psutil.Process(worker.pid).children(recursive=True)
        job = platform.submit(
            {"prompt": "Once", "ignore_eos": True, "stream": True, "max_tokens": 99}
        )
        platform.wait_until(job, lambda job: job.chunks, 30)
        os.killpg(worker.pid, signal.SIGINT)
        assert worker.wait(60) == 0
    assert platform.job(job).state is JobState.COMPLETED
    assert platform.job(job).output[-1]["usage"]["completion_tokens"] == 99
    assert running(family) == []
