"""Simulated GPUs: what NVML says of them, and the environment in which a process finds them.

NVML and the CUDA driver are replaced by two small libraries, `nvml.c` and `cuda.c`, which are
compiled when they are first needed.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCES = {"libnvidia-ml.so.1": "nvml.c", "libcuda.so.1": "cuda.c"}
FOLDER = Path(__file__).resolve().parent
LIBRARIES = Path("~/.cache/llm-worker/simulated_gpu")
EXECUTOR = "simulated_gpu.vllm_executor.SimulatedExecutor"
"""vLLM's `distributed_executor_backend` with which it computes nothing."""
SGLANG_SITE = FOLDER / "sglang_site"
"""On PYTHONPATH it lets SGLang find the GPUs, and a plugin with which it computes nothing."""


@dataclass(frozen=True)
class SimulatedGpu:
    """One kind of GPU. The attributes are what NVML reports.

    Attributes:
        memory_mib: of the whole GPU.
        capability: the compute capability.
        mig_mib: memory of the MIG slice that the container has; None without MIG.
        used_mib: memory that other processes hold.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    capability: str = "9.0"
    memory_mib: int = 81559
    mig_mib: int | None = None
    used_mib: int = 0
    driver: str = "580.95.05"

    def environment(self, count: int = 1) -> dict[str, str]:
        """Return the variables that `nvml.c` reads, for `count` such GPUs."""
        variables = {
            "SIMULATED_GPUS": str(count),
            "SIMULATED_GPU_NAME": self.name,
            "SIMULATED_GPU_CAPABILITY": self.capability,
            "SIMULATED_GPU_MIB": str(self.memory_mib),
            "SIMULATED_GPU_USED_MIB": str(self.used_mib),
            "SIMULATED_GPU_DRIVER": self.driver,
        }
        if self.mig_mib is not None:
            variables["SIMULATED_GPU_MIG_MIB"] = str(self.mig_mib)
        return variables


GPUS: Mapping[str, SimulatedGpu] = {
    "h100": SimulatedGpu(),
    "h200": SimulatedGpu("NVIDIA H200", "9.0", 143771),
    "b200": SimulatedGpu("NVIDIA B200", "10.0", 183359),
    "a100": SimulatedGpu("NVIDIA A100-SXM4-80GB", "8.0", 81920),
    "l4": SimulatedGpu("NVIDIA L4", "8.9", 23034),
    "rtx4090": SimulatedGpu("NVIDIA GeForce RTX 4090", "8.9", 24564),
    "a40": SimulatedGpu("NVIDIA A40", "8.6", 46068),
    "h100-mig": SimulatedGpu(mig_mib=24320),
}


def build_libraries(folder: Path) -> None:
    """Compile the two libraries into a folder, unless they are there with the same sources.

    Raises:
        FileNotFoundError: there is no C compiler, `cc`.
        subprocess.CalledProcessError: it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in SOURCES.items():
        library, path, compiled = folder / name, FOLDER / source, folder / source
        if library.exists() and compiled.exists() and compiled.read_bytes() == path.read_bytes():
            continue
        partial = folder / f".{name}.{os.getpid()}"  # another process may compile it too
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", partial, path], check=True)
        partial.replace(library)
        compiled.write_bytes(path.read_bytes())


def host_environment(
    libraries: Path,
    gpu: SimulatedGpu = GPUS["h100"],
    count: int = 1,
    *,
    engine: str = "vllm",
    executor: bool = True,
) -> dict[str, str]:
    """Return the variables of a process that finds `count` GPUs.

    Args:
        libraries: the folder of `build_libraries`.
        engine: "vllm" or "sglang".
        executor: whether it uses the simulated engine. Without it a start goes as far as the
            first call of CUDA.
    """
    variables = {
        **gpu.environment(count),
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": str(FOLDER.parent),
    }
    if engine == "sglang":
        variables["PYTHONPATH"] = os.pathsep.join((str(SGLANG_SITE), str(FOLDER.parent)))
        variables["SGLANG_PLUGINS"] = "simulated_gpu" if executor else "none"
    elif executor:
        variables["DISTRIBUTED_EXECUTOR_BACKEND"] = EXECUTOR
    return variables
