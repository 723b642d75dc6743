"""Whether vLLM's core is a fork of the worker, and why not."""

from argparse import Namespace

import pytest

from handler.engine.vllm import start_method
from handler.engine.vllm.start_method import StartMethod

ARGS = {
    "distributed_executor_backend": None,
    "data_parallel_backend": "mp",
    "data_parallel_size": 1,
    "data_parallel_size_local": None,
    "numa_bind": False,
    "mm_tensor_ipc": "direct_rpc",
}
WHISPER = "WhisperForConditionalGeneration"


def choose(monkeypatch, environ=None, *, cuda=False, is_cpu=False, architectures=(), **args):
    """Return the method, with CUDA initialised or not: a unit test imports no torch."""
    monkeypatch.setattr(start_method, "cuda_is_initialised", lambda: cuda)
    return start_method.choose(
        Namespace(**ARGS | args),
        environ or {},
        is_cpu=is_cpu,
        architectures=list(architectures),
    )


def test_on_a_gpu_it_is_a_fork(monkeypatch):
    assert choose(monkeypatch) == StartMethod("fork")
    assert choose(monkeypatch, distributed_executor_backend="mp") == StartMethod("fork")
    assert choose(monkeypatch, data_parallel_size=2) == StartMethod("fork")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"cuda": True}, "spawn because CUDA was initialised in the worker's process"),
        ({"distributed_executor_backend": "ray"}, "spawn because Ray starts the ranks"),
        ({"data_parallel_backend": "ray"}, "spawn because Ray starts the ranks"),
        ({"numa_bind": True}, "spawn because NUMA_BIND starts each process with numactl"),
        ({"mm_tensor_ipc": "torch_shm"}, "spawn because MM_TENSOR_IPC=torch_shm fails in a fork"),
        ({"architectures": [WHISPER]}, f"spawn because {WHISPER} may hang in a fork"),
        ({"is_cpu": True}, "spawn because vLLM spawns several ranks on a CPU"),
    ],
    ids=["cuda", "ray", "ray replicas", "numa", "tensor ipc", "whisper", "cpu ranks"],
)
def test_what_needs_spawn_is_the_reason(monkeypatch, changed, text):
    assert str(choose(monkeypatch, **changed)) == text


def test_a_newer_driver_library_needs_a_new_process(monkeypatch):
    chosen = choose(monkeypatch, {"VLLM_ENABLE_CUDA_COMPATIBILITY": "1"})
    reason = "VLLM_ENABLE_CUDA_COMPATIBILITY takes effect in a new process"
    assert chosen == StartMethod("spawn", reason)
    assert choose(monkeypatch, {"VLLM_ENABLE_CUDA_COMPATIBILITY": "0"}) == StartMethod("fork")


def test_one_rank_on_a_cpu_is_a_fork(monkeypatch):
    chosen = choose(monkeypatch, is_cpu=True, distributed_executor_backend="uni")
    assert str(chosen) == "fork"


def test_the_method_of_the_user_wins(monkeypatch):
    for name in ("fork", "spawn"):
        chosen = choose(monkeypatch, {start_method.VARIABLE: name}, cuda=True)
        assert str(chosen) == f"{name} because VLLM_WORKER_MULTIPROC_METHOD is set"


@pytest.mark.parametrize(
    ("size", "local", "forks"), [(1, None, 1), (2, None, 3), (4, 2, 3)], ids=["1", "2", "2 of 4"]
)
def test_several_replicas_have_a_core_each_and_a_coordinator(size, local, forks):
    args = Namespace(**ARGS | {"data_parallel_size": size, "data_parallel_size_local": local})
    assert start_method.fork_count(args) == forks


def test_vllm_may_spawn_where_a_fork_was_chosen(monkeypatch, caplog):
    """CUDA may be initialised later, while vLLM makes its configuration."""
    monkeypatch.setattr(start_method, "cuda_is_initialised", lambda: True)
    monkeypatch.setenv(start_method.VARIABLE, "spawn")
    started = start_method.as_started(StartMethod("fork"))
    assert started == StartMethod("spawn", start_method.CUDA_INITIALISED)
    assert caplog.messages == [
        "the engine was started with spawn because CUDA was initialised in the worker's process"
    ]
    monkeypatch.setenv(start_method.VARIABLE, "fork")
    assert start_method.as_started(StartMethod("fork")) == StartMethod("fork")
