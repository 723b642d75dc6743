"""`torch.cuda` of GPUs that do not exist: what they are, and an error for what would compute.

vLLM asks NVML what GPUs there are, SGLang asks torch. `install` gives torch's answers from the
variables of `nvml.c`: name, compute capability, memory, and whether there is a GPU. It replaces no
more: a tensor on the GPU, a stream or a kernel raises NO_DEVICE. `device_count` is torch's own,
which asks NVML.
"""

import os
from dataclasses import dataclass
from typing import Any, NoReturn

NO_DEVICE = "no device: a simulated GPU computes nothing"
MIB = 1 << 20
FREE_MIB, MISSING_MIB = 256, 256  # where the memory does not suffice


@dataclass(frozen=True)
class Properties:
    """The attributes of `torch.cuda.get_device_properties` that are known of a simulated GPU."""

    name: str
    major: int
    minor: int
    total_memory: int


def install() -> None:
    """Replace functions of `torch.cuda` in this process."""
    import torch

    cuda: Any = torch.cuda
    cuda.is_available = lambda: bool(cuda.device_count() > 0)
    cuda.get_device_properties = lambda device=None: properties()
    cuda.get_device_name = lambda device=None: properties().name
    cuda.get_device_capability = lambda device=None: (properties().major, properties().minor)
    cuda.mem_get_info = lambda device=None: (free_memory(), properties().total_memory)
    cuda.current_device = lambda: 0
    cuda.set_device = lambda device: None
    cuda._lazy_init = _no_device


def properties() -> Properties:
    """Return what each of the GPUs is; a GPU with MIG is its one slice."""
    setting = os.environ.get
    major, minor = map(int, setting("SIMULATED_GPU_CAPABILITY", "9.0").split("."))
    mib = setting("SIMULATED_GPU_MIG_MIB") or setting("SIMULATED_GPU_MIB", "81559")
    return Properties(
        name=setting("SIMULATED_GPU_NAME", "NVIDIA H100 80GB HBM3"),
        major=major,
        minor=minor,
        total_memory=int(mib) * MIB,
    )


def free_memory() -> int:
    """Return the bytes of each GPU that no other process holds."""
    return properties().total_memory - int(os.environ.get("SIMULATED_GPU_USED_MIB", "0")) * MIB


def out_of_memory(missing_mib: int) -> Exception:
    """Return the error of an allocation that is larger than what is free."""
    import torch

    total = int(os.environ.get("SIMULATED_GPU_MIB", "81559")) / 1024
    return torch.OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {FREE_MIB + missing_mib:.2f} MiB. GPU 0 has a "
        f"total capacity of {total:.2f} GiB of which {FREE_MIB:.2f} MiB is free. Process 1 has "
        f"{total - FREE_MIB / 1024:.2f} GiB memory in use."
    )


def _no_device() -> NoReturn:
    raise RuntimeError(NO_DEVICE)
