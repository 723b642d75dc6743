"""The installed build of vLLM, for CPUs or for GPUs, and the environment variables it needs."""

import argparse
import importlib.metadata
from collections.abc import Mapping

from handler.engine.grammar_threads import CACHE_MIB
from handler.startup.gpus import Gpu, visible_gpus

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",  # a redirect could lead to a private address
    "VLLM_XGRAMMAR_CACHE_MB": str(CACHE_MIB),  # 512 by default
}
# vLLM saves how much memory a start has found for the KV cache. The next start with the same GPU
# type, model, flags and version reuses it without measuring, if as much memory is free.
STARTUP_PLAN = "VLLM_ENABLE_STARTUP_PLAN"
# Without it the first request with logprobs waits 30 s for a C++ build.
CPU_ENVIRONMENT = {"TORCH_COMPILE_DISABLE": "1"}
CPU_KV_CACHE_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB
# For log levels above INFO: torch and the kernel libraries log errors only.
QUIET_ENVIRONMENT = {
    "TORCH_LOGS": "-all",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
}
# With it the app would require a key of the worker, its only caller.
REMOVED_VARIABLES = ("VLLM_API_KEY",)


def version() -> str:
    """Return the engine's version; the distribution of the CPU build has a name of its own."""
    return importlib.metadata.version("vllm-cpu" if is_cpu() else "vllm")


def is_cpu() -> bool:
    """Whether the build for CPUs is installed."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def gpus(environ: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs that the engine will see."""
    return [] if is_cpu() else visible_gpus(environ)


def is_quiet(log_level: str) -> bool:
    """Whether the engine logs no more than warnings."""
    return log_level.upper() in ("WARNING", "ERROR", "CRITICAL")


def environment(log_level: str) -> dict[str, str]:
    """Return the variables that vLLM and its processes read, some of them at the import."""
    made = {**ENVIRONMENT, "VLLM_LOGGING_LEVEL": log_level}
    if is_cpu():
        made |= CPU_ENVIRONMENT
    if is_quiet(log_level):
        made |= QUIET_ENVIRONMENT
    return made


def configure_cpu_ranks(args: argparse.Namespace) -> dict[str, str]:
    """Choose where the ranks run on a CPU; return the variables that this needs.

    One rank runs in the process of the engine core, which saves an import of everything. Several
    ranks share all cores: vLLM's default is one NUMA node each, and it refuses to start where
    there are fewer. Its default KV cache is most of the memory.
    """
    made = {} if args.kv_cache_memory_bytes is not None else dict(CPU_KV_CACHE_ENVIRONMENT)
    if args.tensor_parallel_size * args.pipeline_parallel_size > 1:
        made["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    elif args.distributed_executor_backend is None:
        args.distributed_executor_backend = "uni"
        made["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return made
