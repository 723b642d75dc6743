"""The installed build of SGLang, for CPUs or for GPUs, and the environment variables it needs."""

import importlib.metadata
from collections.abc import Mapping, Sequence

from handler.errors import InvalidSetting
from handler.startup.gpus import Gpu, visible_gpus

ENVIRONMENT = {"SGLANG_KILLPG_ON_SCHEDULER_EXCEPTION": "0"}
# Without TORCH_COMPILE_DISABLE the first request of two ranks waits 20 s for a C++ build.
CPU_ENVIRONMENT = {"SGLANG_USE_CPU_ENGINE": "1", "TORCH_COMPILE_DISABLE": "1"}
# PyTorch's own attention and sampling, and a small KV cache: it is filled with zeros, which takes
# seconds per gigabyte.
CPU_ARGUMENTS = [
    "--device=cpu",
    "--attention-backend=torch_native",
    "--sampling-backend=pytorch",
    "--disable-cuda-graph",
    "--mem-fraction-static=0.3",
    "--max-total-tokens=16384",
    "--max-running-requests=64",
    "--lora-backend=torch_native",
]


def version() -> str:
    """Return the engine's version."""
    return importlib.metadata.version("sglang")


def is_cpu() -> bool:
    """Whether torch is a build for CPUs."""
    return importlib.metadata.version("torch").endswith("+cpu")


def check_quantization(method: str | None, model: str, *, is_cpu: bool) -> None:
    """Refuse a quantized checkpoint on a CPU: SGLang's kernels for it are for GPUs.

    Args:
        method: the checkpoint's quantization method, None if it is unquantized.
        model: the model's name, for the error.
        is_cpu: the build is for CPUs.

    Raises:
        InvalidSetting: the checkpoint is quantized and the build is for CPUs.
    """
    if method and is_cpu:
        raise InvalidSetting(
            f"SGLang cannot run a quantized model on a CPU, and {model} is quantized as "
            f"{method!r}: use an unquantized model, or a GPU."
        )


def gpus(environ: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs that the engine will see."""
    return [] if is_cpu() else visible_gpus(environ)


def is_quiet(log_level: str) -> bool:
    """Whether the engine logs no more than warnings."""
    return log_level.upper() in ("WARNING", "ERROR", "CRITICAL")


def environment(log_level: str) -> dict[str, str]:
    """Return the variables that SGLang and its processes read, some of them at the import."""
    made = dict(ENVIRONMENT)
    if is_cpu():
        made |= CPU_ENVIRONMENT
    if is_quiet(log_level):
        made["PYTHONWARNINGS"] = "ignore"
    return made


def thread_binding(ranks: int, cores: Sequence[int], omp_num_threads: str) -> dict[str, str]:
    """Return the variable that binds one rank to OMP_NUM_THREADS cores, or several to all cores.

    SGLang's default is a thread on each core, whatever OMP_NUM_THREADS is, and it refuses to start
    where there are fewer NUMA nodes than ranks.
    """
    has_number = ranks == 1 and omp_num_threads.isdecimal()
    used = cores[-max(1, int(omp_num_threads)) :] if has_number else cores
    binding = ",".join(str(core) for core in used)
    return {"SGLANG_CPU_OMP_THREADS_BIND": "|".join([binding] * ranks)}
