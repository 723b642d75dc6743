"""Which build of vLLM is installed, for CPUs or for GPUs, and the environment that it needs."""

import argparse
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Mapping

from handler.engine.parallelism import visible_gpus
from handler.model.resolve import ResolvedModel
from handler.settings import Settings

START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
# What the engine's processes read. A value that the user has set stays.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    START_METHOD: "spawn",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",  # one could lead to where a request may not
}
# With it vLLM notes how much memory a start has found for the KV cache, and the next one on such a
# GPU with the same model, flags and version takes that without measuring, if as much is free.
PLAN = "VLLM_ENABLE_STARTUP_PLAN"
# On CPU: no C++ build on the first request with logprobs (30 s).
CPU_ENVIRONMENT = {"TORCH_COMPILE_DISABLE": "1"}
CPU_KV_CACHE = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB, unless KV_CACHE_MEMORY_BYTES says how much
# Above INFO also torch and the kernels' libraries say only what went wrong.
QUIET_ENVIRONMENT = {
    "TORCH_LOGS": "-all",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
}


def version() -> str:
    """Return the engine's version. vLLM's CPU build is a distribution of another name."""
    return importlib.metadata.version("vllm-cpu" if is_cpu() else "vllm")


def is_cpu() -> bool:
    """Whether it is the build for CPUs."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def gpus(environ: Mapping[str, str]) -> list[str]:
    """Return the GPUs that it runs on."""
    return [] if is_cpu() else visible_gpus(environ)


def place_on_cpu(args: argparse.Namespace) -> None:
    """Put a single rank into the scheduler's process, and give several all cores to share.

    The first saves one import of everything. The engine's own way with several is a NUMA node for
    each, and a refusal where there are fewer. Its KV cache would be most of the memory.
    """
    if args.kv_cache_memory_bytes is None:
        for name, gibibytes in CPU_KV_CACHE.items():
            os.environ.setdefault(name, gibibytes)
    if args.tensor_parallel_size * args.pipeline_parallel_size > 1:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    elif args.distributed_executor_backend is None:
        args.distributed_executor_backend = "uni"
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def prepare_environment(
    settings: Settings, model: ResolvedModel, environ: Mapping[str, str]
) -> None:
    """Set what vLLM and its child processes read from the environment."""
    defaults = {**ENVIRONMENT, "VLLM_LOGGING_LEVEL": settings.log_level}
    if is_cpu():
        defaults |= CPU_ENVIRONMENT
    if is_quiet(settings, environ):
        defaults |= QUIET_ENVIRONMENT
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # in a fork, which reads no environment
    if model.is_local:
        defaults["HF_HUB_OFFLINE"] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # It would make the app ask its only caller, this worker, for a key.
    os.environ.pop("VLLM_API_KEY", None)


def is_quiet(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether the engine is to say only what went wrong."""
    level = environ.get("VLLM_LOGGING_LEVEL", settings.log_level)
    return level.upper() in ("WARNING", "ERROR", "CRITICAL")
