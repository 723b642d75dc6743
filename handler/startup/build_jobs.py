"""How many compilers run at once, from the cores and the memory that the container may use.

ninja starts one compiler a core of the machine, and a compiler of kernels takes up to 5.7 GiB: a
container with less memory would be killed.

NVCC_THREADS and FLASHINFER_NVCC_THREADS are left alone: vLLM's key of compiled graphs has the
first one, FlashInfer's command lines have the second, so kernels of another machine would not be
found. No installed package runs CMake when an engine starts.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

COMPILER_BYTES = 6 * 2**30
ENGINE_BYTES = 8 * 2**30  # the engine's own processes, while something is compiled
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

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
    cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP
) -> dict[str, str]:
    """Return the variables that bound how many compilers run at once."""
    cores = available_cores(cgroups, membership)
    room = memory_limit_bytes(cgroups, membership) - ENGINE_BYTES
    jobs = max(1, min(cores, room // COMPILER_BYTES))
    variables = {name: min(jobs, limit or jobs) for name, limit in JOB_VARIABLES.items()}
    variables[INDUCTOR_VARIABLE] = min(cores, MAX_INDUCTOR_THREADS)
    return {name: str(number) for name, number in variables.items()}


def memory_limit_bytes(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the machine's memory, or the container's limit if that is lower."""
    limits = [int(psutil.virtual_memory().total)]
    for folder in _folders("memory", cgroups, membership):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += _numbers(folder / name)
    return min(limits)


def available_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the cores that this process may use, a part of one counted as one."""
    cores = [len(os.sched_getaffinity(0))]
    for folder in _folders("cpu", cgroups, membership):
        quota = _numbers(folder / "cpu.max")  # of v2: quota and period
        if not quota:
            quota = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0] > 0:  # v1 says -1, v2 says max without a limit
            cores.append(-(-quota[0] // quota[1]))
    return max(1, min(cores))


def _folders(controller: str, cgroups: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders whose limits hold for this process: its cgroup and those above it.

    In a container the mount's root is usually its cgroup; the paths of `membership` then lead
    nowhere or to the same one. cgroup v2 has one tree for all controllers, v1 one for each.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    roots = {cgroups: "", cgroups / controller: ""}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots[cgroups] = path
        elif controller in controllers.split(","):
            roots[cgroups / controller] = path
    for root, path in roots.items():
        folder = root / path.strip("/")
        yield folder
        while folder != root:
            folder = folder.parent
            yield folder


def _numbers(path: Path) -> list[int]:
    """Return the numbers in a file; an empty list if it is missing or says `max`."""
    try:
        return [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []
