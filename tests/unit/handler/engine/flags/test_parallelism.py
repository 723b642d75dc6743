"""Tensor parallelism: how GPUs are counted, and which sizes a model's heads allow."""

import json

import pytest

from handler.engine.flags.parallelism import (
    Parallelism,
    check_parallelism,
    resolve_auto_tensor_parallel,
)
from handler.errors import InvalidSetting


@pytest.fixture
def heads(tmp_path):
    """Makes a checkpoint folder whose configuration has a number of heads."""

    def make(heads, kv_heads=None, nested=False):
        config = {"num_attention_heads": heads, "num_key_value_heads": kv_heads or heads}
        config = {"text_config": config} if nested else config
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({}, "4"),
        ({"PIPELINE_PARALLEL_SIZE": "2"}, "2"),
        ({"PP_SIZE": "2", "DATA_PARALLEL_SIZE": "2"}, "1"),
        ({"PIPELINE_PARALLEL_SIZE": "2", "DISTRIBUTED_EXECUTOR_BACKEND": "ray"}, "4"),
        ({"PIPELINE_PARALLEL_SIZE": "2", "NNODES": "2"}, "4"),
        ({"DP_SIZE": "4", "ENABLE_DP_ATTENTION": "true"}, "4"),
        ({"ATTN_DP_SIZE": "4"}, "4"),
        ({"DP_SIZE": "2", "ATTN_DP_SIZE": "2", "ENABLE_DP_ATTENTION": "true"}, "2"),
        ({"DP_SIZE": "2", "ENABLE_DP_ATTENTION": "false"}, "2"),
    ],
    ids=[
        "all",
        "pipeline",
        "replicas",
        "ray",
        "nodes",
        "DP attention",
        "attention groups",
        "replicas of attention groups",
        "DP attention off",
    ],
)
@pytest.mark.parametrize("name", ["TENSOR_PARALLEL_SIZE", "TP_SIZE"])
def test_auto_is_the_number_of_gpus_of_this_machine(name, environ, size):
    """Divided among pipeline stages and replicas, unless these may be on other machines."""
    made = resolve_auto_tensor_parallel({name: "auto", **environ}, 4)
    assert made == {**environ, name: size}


def test_auto_is_one_without_a_gpu():
    assert resolve_auto_tensor_parallel({"TP_SIZE": "auto"}, 0) == {"TP_SIZE": "1"}


@pytest.mark.parametrize(
    ("shape", "environ", "parallelism", "message"),
    [
        (
            (9, 3),
            {"TENSOR_PARALLEL_SIZE": "2"},
            Parallelism(2, 2),
            "TENSOR_PARALLEL_SIZE='2': the model's 9 attention heads (3 of them for keys and "
            "values) can be split over 1, 3, 9 GPUs.",
        ),
        (
            (12, 2),
            {"TP_SIZE": "3"},
            Parallelism(3, 3),
            "TP_SIZE='3': the model's 12 attention heads (2 of them for keys and values) can be "
            "split over 1, 2, 4, 6, 12 GPUs.",
        ),
        (
            (14, None, True),
            {"TENSOR_PARALLEL_SIZE": "auto"},
            Parallelism(4, 4),
            "TENSOR_PARALLEL_SIZE='auto': the worker has 4 GPUs for it, and the model's 14 "
            "attention heads can be split over 1, 2 GPUs.",
        ),
        (
            (8,),
            {"TP_SIZE": "2", "ENGINE_ARGS": "--tp 3"},
            Parallelism(3, 3),
            "ENGINE_ARGS='--tp 3': the model's 8 attention heads can be split over 1, 2, 4, 8 "
            "GPUs.",
        ),
        (
            (3,),
            {"TP_SIZE": "4"},
            Parallelism(4, 4, groups=2),
            "TP_SIZE='4': the model's 3 attention heads, in 2 groups of ranks, can be split "
            "over 2, 6 "
            "GPUs.",
        ),
    ],
    ids=["heads", "KV heads", "auto", "ENGINE_ARGS", "DP attention"],
)
def test_a_size_that_the_heads_do_not_allow_is_refused(heads, shape, environ, parallelism, message):
    """With the sizes that they allow."""
    with pytest.raises(InvalidSetting) as caught:
        check_parallelism(parallelism, environ, heads(*shape), 4)
    assert str(caught.value) == message


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_kv_heads_may_be_replicated(heads, size):
    """Two of them serve up to all eight heads."""
    check_parallelism(Parallelism(size, size), {}, heads(8, 2), 4)


def test_a_model_without_heads_is_left_to_the_engine(tmp_path):
    """Not every model has attention."""
    (tmp_path / "config.json").write_text("{}")
    check_parallelism(Parallelism(3, 3), {}, tmp_path, 4)


def test_idle_gpus_are_logged(heads, caplog):
    """One line, and only where no setting says how many GPUs are meant."""
    check_parallelism(Parallelism(1, 1), {}, heads(8), 4)
    check_parallelism(Parallelism(1, 1), {"TENSOR_PARALLEL_SIZE": "1"}, heads(8), 4)
    check_parallelism(Parallelism(4, 4), {"ENGINE_ARGS": "-tp 4"}, heads(8), 4)
    check_parallelism(Parallelism(1, 1), {}, heads(8), 1)
    assert [record.message for record in caplog.records] == [
        "the worker sees 4 GPUs and uses the first, the others are idle: "
        "TENSOR_PARALLEL_SIZE=auto uses all of them"
    ]


@pytest.mark.parametrize(
    ("ranks", "gpus", "here"),
    [(1, 4, 1), (4, 4, 4), (8, 4, 4), (3, 0, 3)],
    ids=["idle GPUs", "one machine", "several machines", "CPU"],
)
def test_a_machine_has_as_many_ranks_as_gpus_at_most(ranks, gpus, here):
    assert Parallelism(ranks, ranks).ranks_on(gpus) == here
