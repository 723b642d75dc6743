"""How many compilers run at once, from the cores and the memory that the container may use.

ninja starts one compiler a core of the machine, and a compiler of kernels takes up to 5.7 GiB: a
container with less memory would be killed. Each rank of the engine compiles for itself.

NVCC_THREADS and FLASHINFER_NVCC_THREADS are left alone: vLLM's key of compiled graphs has the
first one, FlashInfer's command lines have the second, so kernels of another machine would not be
found. No installed package runs CMake when an engine starts.
"""

from handler.startup.container_limits import available_cores, memory_limit_bytes

COMPILER_BYTES = 6 * 2**30
# The engine's own processes, while something is compiled. Not for each rank: what a rank takes
# beside its GPU (CUDA's context, pinned memory) was not measured.
ENGINE_BYTES = 8 * 2**30

# Variable → its reader's own limit, if it has one.
# - MAX_JOBS: ninja of FlashInfer, torch, tvm_ffi and SGLang
# - HUMMING_MAX_PARALLEL_BUILD_WORKERS: Humming; the container's cores by default
# - QUACK_COMPILE_WORKERS: processes with an import of torch and CuTe each
# - VLLM_TRITON_JIT_WARMUP_NUM_THREADS: threads that compile with Triton
# vLLM's key of compiled graphs has none of them.
JOB_VARIABLES = {
    "MAX_JOBS": None,
    "HUMMING_MAX_PARALLEL_BUILD_WORKERS": None,
    "QUACK_COMPILE_WORKERS": 8,
    "VLLM_TRITON_JIT_WARMUP_NUM_THREADS": 4,
}
# Threads of the inductor's, which are forks of one process: a core each. vLLM sets it to 1 itself.
INDUCTOR_VARIABLE, MAX_INDUCTOR_THREADS = "TORCHINDUCTOR_COMPILE_THREADS", 32


def build_jobs_environment(
    ranks: int, cores: int | None = None, memory_bytes: int | None = None
) -> dict[str, str]:
    """Return the variables that bound how many compilers run at once.

    They are read when something is compiled, not at an import: vLLM's ranks may be forks.

    Args:
        ranks: of the engine on this machine, which share the cores and the memory.
        cores: None is what the container allows.
        memory_bytes: likewise.
    """
    cores = cores or available_cores()
    room = (memory_bytes or memory_limit_bytes()) - ENGINE_BYTES
    jobs = max(1, min(cores, room // COMPILER_BYTES) // ranks)
    variables = {name: min(jobs, limit or jobs) for name, limit in JOB_VARIABLES.items()}
    variables[INDUCTOR_VARIABLE] = max(1, min(cores // ranks, MAX_INDUCTOR_THREADS))
    return {name: str(number) for name, number in variables.items()}
