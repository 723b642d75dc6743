"""More than one rank: the counts that are taken, and real workers whose ranks run on a CPU.

Each run has one worker: it answers as one rank would, and then loses a rank while it streams.
"""

import json
import signal
import time

import psutil
import pytest

from handler.engine import parallelism
from handler.engine.parallelism import Parallelism, visible_gpus, with_counted_gpus
from handler.errors import InvalidSetting
from runpod_local import JobState, running_platform, running_worker
from tests.support.checkpoints import tiny_llama
from tests.support.environment import (
    START_SECONDS,
    clean_environment,
    worker_command,
    worker_environment,
)
from tests.support.ray_cluster import PLUGIN, running_ray
from tests.support.vllm_adapter import checked_vllm_adapter as check

pytestmark = pytest.mark.filterwarnings("ignore")  # engines and torch warn while they are imported

DEATH_SECONDS = 10
QUESTION = {"prompt": "Once upon a time", "max_tokens": 48, "temperature": 0, "ignore_eos": True}
STORY = {**QUESTION, "max_tokens": 1900, "stream": True}
# The ranks of tensors add up what one rank adds up in another order: bfloat16 would show it.
SMALL = {"DTYPE": "float32", "MAX_MODEL_LEN": "2048"}


@pytest.fixture
def devices(tmp_path):
    """A folder with device files as on a machine with four GPUs."""
    folder = tmp_path / "dev"
    folder.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (folder / name).touch()
    return folder


@pytest.fixture
def heads(tmp_path):
    """A checkpoint's folder whose configuration has so many heads."""

    def make(heads, kv_heads=None, nested=False):
        config = {"num_attention_heads": heads, "num_key_value_heads": kv_heads or heads}
        config = {"text_config": config} if nested else config
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [
        (None, ["0", "1", "2", "10"]),
        ("", []),
        ("-1", []),
        ("2", ["2"]),
        ("3, 1", ["3", "1"]),
        ("GPU-5e2f,MIG-77a1", ["GPU-5e2f", "MIG-77a1"]),
        ("0,-1,1", ["0"]),
    ],
    ids=["unset", "empty", "none", "one", "two", "named", "cut"],
)
def test_gpus_are_counted_without_cuda(devices, chosen, gpus):
    """From CUDA_VISIBLE_DEVICES as CUDA reads it, else from the device files."""
    environ = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible_gpus(environ, devices) == gpus


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({}, "4"),
        ({"CUDA_VISIBLE_DEVICES": "1,2"}, "2"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "1"),
        ({"PIPELINE_PARALLEL_SIZE": "2"}, "2"),
        ({"PP_SIZE": "2", "DATA_PARALLEL_SIZE": "2"}, "1"),
        ({"PIPELINE_PARALLEL_SIZE": "2", "DISTRIBUTED_EXECUTOR_BACKEND": "ray"}, "4"),
        ({"PIPELINE_PARALLEL_SIZE": "2", "NNODES": "2"}, "4"),
    ],
    ids=["all", "chosen", "none", "pipeline", "copies", "ray", "nodes"],
)
@pytest.mark.parametrize("name", ["TENSOR_PARALLEL_SIZE", "TP_SIZE"])
def test_auto_takes_the_gpus_of_this_machine(devices, name, environ, size):
    """Divided among pipeline stages and copies, unless the stages may be on other machines."""
    made = with_counted_gpus({name: "auto", **environ}, devices)
    assert made == {**environ, name: size}


@pytest.mark.parametrize(
    ("shape", "environ", "split", "message"),
    [
        (
            (9, 3),
            {"TENSOR_PARALLEL_SIZE": "2"},
            Parallelism(2, 2),
            "TENSOR_PARALLEL_SIZE='2': the model's 9 attention heads (3 of them for keys and "
            "values) can be split over 1, 3, 9.",
        ),
        (
            (12, 2),
            {"TP_SIZE": "3"},
            Parallelism(3, 3),
            "TP_SIZE='3': the model's 12 attention heads (2 of them for keys and values) can be "
            "split over 1, 2, 4, 6, 12.",
        ),
        (
            (14, None, True),
            {"TENSOR_PARALLEL_SIZE": "auto"},
            Parallelism(4, 4),
            "TENSOR_PARALLEL_SIZE='auto': the worker has 4 GPUs for it, and the model's 14 "
            "attention heads can be split over 1, 2.",
        ),
        (
            (8,),
            {"TP_SIZE": "2", "ENGINE_ARGS": "--tp 3"},
            Parallelism(3, 3),
            "ENGINE_ARGS='--tp 3': the model's 8 attention heads can be split over 1, 2, 4, 8.",
        ),
        (
            (3,),
            {"TP_SIZE": "4"},
            Parallelism(4, 4, groups=2),
            "TP_SIZE='4': the model's 3 attention heads, in 2 copies, can be split over 2, 6.",
        ),
    ],
    ids=["heads", "keys and values", "auto", "ENGINE_ARGS", "DP attention"],
)
def test_a_count_that_the_heads_do_not_allow_is_refused(
    heads, devices, shape, environ, split, message
):
    """With the counts that they do allow."""
    with pytest.raises(InvalidSetting) as caught:
        parallelism.check(split, environ, heads(*shape), devices)
    assert str(caught.value) == message


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_heads_for_keys_and_values_may_be_copied(heads, devices, size):
    """Two of them serve up to all eight."""
    parallelism.check(Parallelism(size, size), {}, heads(8, 2), devices)


def test_a_model_without_heads_is_left_to_the_engine(model, devices):
    """Not every model has attention."""
    parallelism.check(Parallelism(3, 3), {}, model(), devices)


def test_idle_gpus_are_warned_of(heads, devices, caplog):
    """One line, and only where nothing says how many GPUs are meant."""
    parallelism.check(Parallelism(1, 1), {}, heads(8), devices)
    parallelism.check(Parallelism(1, 1), {"TENSOR_PARALLEL_SIZE": "1"}, heads(8), devices)
    parallelism.check(Parallelism(4, 4), {"ENGINE_ARGS": "-tp 4"}, heads(8), devices)
    parallelism.check(Parallelism(1, 1), {"CUDA_VISIBLE_DEVICES": "3"}, heads(8), devices)
    assert [record.message for record in caplog.records] == [
        "the worker sees 4 GPUs and uses one, the others (1, 2, 10) are idle: "
        "TENSOR_PARALLEL_SIZE=auto takes all of them"
    ]


def test_auto_reaches_the_engine(heads):
    """The parser gets a number, and with more than one rank not the executor for one."""
    folder = heads(8)
    (folder / "model.safetensors").touch()
    one = check(folder, TENSOR_PARALLEL_SIZE="auto", CUDA_VISIBLE_DEVICES="")._args
    two = check(folder, TP_SIZE="auto", CUDA_VISIBLE_DEVICES="0,1")._args
    assert (one.tensor_parallel_size, one.distributed_executor_backend) == (1, "uni")
    assert (two.tensor_parallel_size, two.distributed_executor_backend) == (2, None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Two layers, whose heads two ranks can share."""
    return tiny_llama(tmp_path_factory.mktemp("checkpoint") / "tiny-llama")


@pytest.fixture(scope="module")
def answer(checkpoint):
    """What the model says to `QUESTION` without an engine."""
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
    """Have a worker answer, kill one of its ranks while it streams, and see it end in order.

    Args:
        engine: vllm or sglang.
        environment: of the worker.
        answer: what it must say to `QUESTION`.
        victim: picks the process to kill, given the worker's.
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
        killed_at = time.monotonic()
        rank.send_signal(signal.SIGKILL)
        assert worker.wait(60) == 5
        assert time.monotonic() - killed_at < DEATH_SECONDS
        for job in (platform.job(job_id) for job_id in job_ids):
            error = json.loads(job.error)["error"]
            assert (job.state, error["code"], error["type"]) == (
                JobState.FAILED,
                503,
                "ServiceUnavailableError",
            )
        _, left = psutil.wait_procs(family, timeout=5)  # orphans wait for this machine's init
        assert left == []


def named(text):
    """Return a function that finds the one process with a text in its name."""

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
    """The last rank is lost: another process than the one that the engine's app talks to."""
    environment = worker_environment(
        engine=engine, MODEL_NAME=str(checkpoint), **SMALL, **{name: "2"}
    )
    answer_and_lose_a_rank(engine, environment, answer, named(rank))


def test_vllm_on_a_ray_cluster_dies_with_a_rank_and_leaves_the_cluster(checkpoint, answer):
    """The ranks are Ray's processes: they end with the worker, what it did not start does not."""
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
        _, left = psutil.wait_procs(ranks, timeout=5)
        assert (len(ranks), left) == (2, [])
        names = {process.name() for process in cluster.head.children(recursive=True)}
        assert {"gcs_server", "raylet"} <= names
