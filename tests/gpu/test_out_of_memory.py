"""A GPU whose memory runs out at a step of vLLM's start: the worker starts once more with less."""

import json

import psutil
import pytest

from simulated_gpu.gpu import GPUS
from tests.gpu.conftest import ANSWER, PYTHON
from tests.gpu.test_start import run
from tests.support.environment import MODELS, NAME, ROOT, START_SECONDS
from tests.support.expositions import value
from tests.support.http_worker import running_http_worker

LOWERED = "the second start has succeeded: set "
MEASURE = "compile and measure memory"


def out_of_memory(limits):
    return {"SIMULATED_OUT_OF_MEMORY": json.dumps(limits)}


@pytest.mark.parametrize(
    ("environ", "lowered"),
    [
        # 2,048 batched tokens take 0.0625 GiB; 0.18 GiB are needed for the context.
        (
            {"SIMULATED_KV_CACHE_GIB": "0.2", "SIMULATED_ACTIVATION_KIB": "32"},
            "MAX_NUM_BATCHED_TOKENS=",
        ),
        ({"SIMULATED_KV_CACHE_GIB": "0.1"}, "MAX_MODEL_LEN=4"),
        (
            out_of_memory({MEASURE: {"max_num_batched_tokens": 1024}})
            # The engine has all the memory: what the batch gives is enough for a KV cache.
            | {"GPU_MEMORY_UTILIZATION": "1"},
            "MAX_NUM_BATCHED_TOKENS=",
        ),
        (out_of_memory({"graphs": {"max_cudagraph_capture_size": 8}}), "ENFORCE_EAGER=1"),
    ],
    ids=["KV cache, batch", "KV cache, length", "first step", "graphs"],
)
def test_the_second_start_answers(gpu_environment, environ, lowered):
    done = run(gpu_environment(GPUS["l4"], VLLM_LOGGING_LEVEL="CRITICAL", **environ))
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout
    [line] = [line for line in done.stdout.splitlines() if LOWERED in line]
    assert lowered in line


def test_the_text_of_pytorch_is_understood():
    """It is compiled: each part that the worker reads is in the library."""
    library = next((ROOT / ".venv-cuda/lib").glob("python*/site-packages/torch/lib/libc10_cuda.so"))
    text = library.read_bytes()
    said = "Tried to allocate | has a total capacity of | of which | is free| this process"
    said += "| memory in use| is allocated by PyTorch,| is reserved by PyTorch"
    for part in said.split("|"):
        assert part.encode() in text


def test_a_length_that_the_user_has_set_is_not_lowered(gpu_environment):
    """The last line says which would fit."""
    environment = gpu_environment(
        GPUS["l4"],
        VLLM_LOGGING_LEVEL="CRITICAL",
        SIMULATED_KV_CACHE_GIB="0.1",
        MAX_MODEL_LEN="8192",
        MAX_NUM_SEQS="16",
        MAX_NUM_BATCHED_TOKENS="2048",
        MAX_CUDAGRAPH_CAPTURE_SIZE="8",
    )
    done = run(environment)
    assert (done.returncode, "second start" in done.stdout) == (4, False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("The engine did not start: ValueError: To serve at least one request ")
    assert last.endswith(" To start it, set MAX_MODEL_LEN to at most 4640.")


def test_weights_that_do_not_fit_end_the_worker(gpu_environment):
    """No setting that the worker may lower makes them smaller."""
    environ = {"VLLM_LOGGING_LEVEL": "CRITICAL", **out_of_memory({"weights": 512})}
    done = run(gpu_environment(GPUS["l4"], **environ))
    assert (done.returncode, "second start" in done.stdout) == (4, False)
    assert done.stderr.splitlines()[-1] == (
        "The engine did not start: OutOfMemoryError: CUDA out of memory. Tried to allocate 768.00 "
        "MiB. GPU 0 has a total capacity of 22.49 GiB of which 256.00 MiB is free. Process 1 has "
        "22.24 GiB memory in use. To start it, use a larger GPU, more GPUs (TENSOR_PARALLEL_SIZE), "
        "or a checkpoint with fewer bits (AWQ, FP8)."
    )


def test_the_metrics_say_what_was_lowered_and_no_process_of_the_first_start_is_left(
    gpu_environment,
):
    environment = gpu_environment(
        GPUS["l4"], SERVE_MODE="http", VLLM_LOGGING_LEVEL="CRITICAL", SIMULATED_KV_CACHE_GIB="0.1"
    )
    with running_http_worker(
        [PYTHON, "-m", "handler"], environment, ready_within_seconds=START_SECONDS
    ) as worker:
        exposition = worker.call("GET", "/metrics").text
        family = psutil.Process(worker.process.pid).children(recursive=True)
        cores = [process for process in family if process.name().startswith("VLLM::EngineCor")]
        assert len(cores) == 1
    assert value(exposition, 'llm_worker_start_seconds{stage="first start"}') > 0
    [length] = [
        float(line.split()[-1])
        for line in exposition.splitlines()
        if line.startswith('llm_worker_lowered_setting{setting="MAX_MODEL_LEN"}')
    ]
    assert 4096 < length < 8192


def test_a_context_that_the_check_before_the_start_has_shortened_is_a_metric(
    gpu_environment, tmp_path
):
    """A million tokens of 23 kB; there is no second start."""
    for path in MODELS.joinpath(f"{NAME}-awq").iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    config["max_position_embeddings"] = 1_000_000
    (tmp_path / "config.json").write_text(json.dumps(config))
    environment = gpu_environment(
        GPUS["l4"],
        SERVE_MODE="http",
        VLLM_LOGGING_LEVEL="CRITICAL",
        SIMULATED_KV_CACHE_GIB="1",
        MODEL_NAME=str(tmp_path),
    )
    with running_http_worker(
        [PYTHON, "-m", "handler"], environment, ready_within_seconds=START_SECONDS
    ) as worker:
        exposition = worker.call("GET", "/metrics").text
        [model] = worker.call("GET", "/v1/models").json()["data"]
    series = 'llm_worker_lowered_setting{setting="MAX_MODEL_LEN"}'
    assert value(exposition, series) == model["max_model_len"]
    assert "first start" not in exposition
