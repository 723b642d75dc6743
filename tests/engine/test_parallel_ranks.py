"""Workers with two ranks on a CPU: each answers as one rank does, then loses a rank in a stream."""

import json
import signal

import psutil
import pytest

from runpod_local import JobState, running_platform, running_worker
from tests.support.checkpoints import tiny_llama
from tests.support.conditions import wait_until
from tests.support.environment import (
    START_SECONDS,
    clean_environment,
    worker_command,
    worker_environment,
)
from tests.support.processes import running
from tests.support.ray_cluster import PLUGIN, running_ray

pytestmark = pytest.mark.filterwarnings("ignore")  # engines and torch warn while they are imported

QUESTION = {"prompt": "Once upon a time", "max_tokens": 48, "temperature": 0, "ignore_eos": True}
# Long enough to run still when a rank is killed, also on cores that keep this process waiting.
STORY = {**QUESTION, "max_tokens": 8000, "stream": True}
# Tensor parallelism adds in another order than one rank, which bfloat16 would show.
SMALL = {"DTYPE": "float32", "MAX_MODEL_LEN": "8192"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model of two layers whose heads two ranks can share."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-llama"
    return tiny_llama(folder, max_position_embeddings=8192)


@pytest.fixture(scope="module")
def answer(checkpoint):
    """The model's answer to `QUESTION` without an engine."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    asked = tokenizer(QUESTION["prompt"], return_tensors="pt")
    tokens = model.generate(
        **asked, min_new_tokens=48, max_new_tokens=48, do_sample=False, pad_token_id=2
    )
    return tokenizer.decode(tokens[0, asked["input_ids"].shape[1] :])


def answer_and_lose_a_rank(engine, environment, answer, victim):
    """Check a worker's answer, kill one of its ranks in a stream, and check that it ends in order.

    Args:
        engine: vllm or sglang.
        environment: of the worker.
        answer: expected for `QUESTION`.
        victim: picks the process to kill, given the worker's processes.
    """
    with (
        running_platform(ping_interval_seconds=1) as platform,
        running_worker(
            platform,
            worker_command(engine),
            environment,
            ready_within_seconds=START_SECONDS,
        ) as worker,
    ):
        job = platform.wait(platform.submit(QUESTION), 60)
        assert job.output[0]["choices"][0]["text"] == answer
        raw = {"openai_route": "/v1/completions", "openai_input": STORY}
        job_ids = [platform.submit(STORY), platform.submit(raw)]
        for job_id in job_ids:
            platform.wait_until(job_id, lambda job: len(job.chunks) > 1, 60)
        family = psutil.Process(worker.pid).children(recursive=True)
        rank = victim(family)
        rank.send_signal(signal.SIGKILL)
        assert worker.wait(60) == 5
        for job in (platform.job(job_id) for job_id in job_ids):
            assert job.state == JobState.FAILED, job
            error = json.loads(job.error)["error"]
            assert (error["code"], error["type"]) == (503, "ServiceUnavailableError")
        wait_until(lambda: running(family) == [])


def named(text):
    """Return a function that finds the one process whose name contains a text."""

    def find(family):
        [found] = [process for process in family if text in process.name()]
        return found

    return find


@pytest.mark.parametrize(
    ("engine", "name", "rank"),
    [
        ("vllm", "TENSOR_PARALLEL_SIZE", "Worker_TP1"),
        ("vllm", "PIPELINE_PARALLEL_SIZE", "Worker_PP1"),
        ("sglang", "TENSOR_PARALLEL_SIZE", "TP1"),
        ("sglang", "PIPELINE_PARALLEL_SIZE", "PP1"),
    ],
    ids=["vllm tensors", "vllm pipeline", "sglang tensors", "sglang pipeline"],
)
def test_two_ranks_answer_as_one_and_die_as_one(checkpoint, answer, engine, name, rank):
    """The last rank is killed: another process than the one that the engine's app talks to."""
    environment = worker_environment(
        engine=engine, MODEL_NAME=str(checkpoint), **SMALL, **{name: "2"}
    )
    answer_and_lose_a_rank(engine, environment, answer, named(rank))


def test_vllm_on_a_ray_cluster_dies_with_a_rank_and_leaves_the_cluster(checkpoint, answer):
    """The ranks are Ray's processes: they end with the worker, and the cluster stays."""
    # Ray's processes import torch before vLLM sets what the worker has chosen.
    surroundings = clean_environment(OMP_NUM_THREADS="1", TORCH_COMPILE_DISABLE="1")
    with running_ray(surroundings, ranks=2) as cluster:
        environment = worker_environment(
            MODEL_NAME=str(checkpoint),
            **SMALL,
            TENSOR_PARALLEL_SIZE="2",
            DISTRIBUTED_EXECUTOR_BACKEND="ray",
            RAY_ADDRESS=cluster.address,
            PYTHONPATH=str(PLUGIN),
        )
        ranks = []

        def last_rank(_):
            ranks[:] = cluster.ranks()
            return ranks[-1]

        answer_and_lose_a_rank("vllm", environment, answer, last_rank)
        wait_until(lambda: running(ranks) == [])
        assert len(ranks) == 2
        names = {process.name() for process in cluster.head.children(recursive=True)}
        assert {"gcs_server", "raylet"} <= names
