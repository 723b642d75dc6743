"""How vLLM starts the engine's core: as a fork of the worker, or as a new process (spawn).

A fork has everything imported. It must not be made once CUDA is initialised in this process, nor
while another of its threads works: a lock that the thread holds stays locked in the fork. The ranks
of several GPUs are started by the core, in the same way.
"""

import argparse
import ctypes
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from handler.settings.types import TRUE_WORDS
from handler.startup.driver import COMPATIBILITY, CUDA_LIBRARY

log = logging.getLogger(__name__)

VARIABLE = "VLLM_WORKER_MULTIPROC_METHOD"
FORK, SPAWN = "fork", "spawn"
CUDA_INITIALISED = "CUDA was initialised in the worker's process"
CUDA_SUCCESS = 0
NO_FORK_ARCHITECTURES = {"WhisperForConditionalGeneration"}  # vLLM warns of a start that hangs


@dataclass(frozen=True)
class StartMethod:
    """The start method and, where it is spawn, the reason."""

    name: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} because {self.reason}" if self.reason else self.name


def choose(
    args: argparse.Namespace, environ: Mapping[str, str], *, is_cpu: bool, architectures: list[str]
) -> StartMethod:
    """Return the start method for vLLM's parsed flags, as of this moment.

    Args:
        args: vLLM's parsed flags.
        environ: the worker's environment, as the user has set it; its method wins.
        is_cpu: whether vLLM's build for CPUs is installed.
        architectures: of the model, from its configuration.
    """
    if chosen := environ.get(VARIABLE):
        return StartMethod(chosen, f"{VARIABLE} is set")
    if not is_cpu and environ.get(COMPATIBILITY, "").strip().lower() in TRUE_WORDS:
        return StartMethod(SPAWN, f"{COMPATIBILITY} takes effect in a new process")
    reason = _spawn_reason(args, is_cpu=is_cpu, architectures=architectures)
    return StartMethod(SPAWN, reason) if reason else StartMethod(FORK)


def fork_count(args: argparse.Namespace) -> int:
    """Return how many forks vLLM makes of this process: its cores, and a coordinator of several."""
    cores: int = args.data_parallel_size_local or args.data_parallel_size
    return cores if args.data_parallel_size == 1 else cores + 1


def as_started(chosen: StartMethod) -> StartMethod:
    """Return the method that the engine was started with, after its start.

    vLLM looks again immediately before it starts the core, and then sets the variable.
    """
    name = os.environ[VARIABLE]
    if name == chosen.name:
        return chosen
    reason = CUDA_INITIALISED if cuda_is_initialised() else "vLLM has refused to fork"
    method = StartMethod(name, reason)
    log.warning("the engine was started with %s", method)
    return method


def _spawn_reason(args: argparse.Namespace, *, is_cpu: bool, architectures: list[str]) -> str:
    if is_cpu:
        several = args.distributed_executor_backend != "uni" or args.data_parallel_size > 1
        return "vLLM spawns several ranks on a CPU" if several else ""
    if "ray" in (args.distributed_executor_backend, args.data_parallel_backend):
        return "Ray starts the ranks"
    if args.numa_bind:
        return "NUMA_BIND starts each process with numactl"
    if args.mm_tensor_ipc == "torch_shm":
        return "MM_TENSOR_IPC=torch_shm fails in a fork"
    if unsafe := NO_FORK_ARCHITECTURES.intersection(architectures):
        return f"{min(unsafe)} may hang in a fork"
    return CUDA_INITIALISED if cuda_is_initialised() else ""


def cuda_is_initialised() -> bool:
    """Whether CUDA is initialised in this process. vLLM has imported torch by then.

    torch knows only of what it has initialised itself. Another library may have called the
    driver's cuInit, after which CUDA fails in a fork.
    """
    import torch

    return bool(torch.cuda.is_initialized()) or _driver_is_initialised()  # type: ignore[no-untyped-call]


def _driver_is_initialised() -> bool:
    """Ask the driver, which refuses every call before cuInit."""
    try:
        count_devices = ctypes.CDLL(CUDA_LIBRARY).cuDeviceGetCount
    except (OSError, AttributeError):
        return False
    return bool(count_devices(ctypes.byref(ctypes.c_int())) == CUDA_SUCCESS)
