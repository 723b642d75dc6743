"""NVIDIA's GPUs and driver, from NVML, the library behind nvidia-smi, by nvidia-ml-py's `pynvml`.

NVML never initialises CUDA: a process that has initialised CUDA can no longer fork its engine. In
a container NVML counts the GPUs that were passed to it, from 0, as CUDA does. Both engines' CUDA
builds bring nvidia-ml-py; the CPU builds need not, and see no GPU.

CUDA_VISIBLE_DEVICES is read as CUDA reads it:

- entries are indices or UUIDs, which may be abbreviated; the first invalid entry and all after it
  are ignored, and a GPU that is named twice leaves none;
- of MIG slices a process has one, the first that it may use, and no other GPU beside it: NVIDIA's
  MIG User Guide, "CUDA Device Enumeration". A GPU in MIG mode stands for its first slice.

CUDA's own order of different GPUs is the fastest first, NVML's is that of the PCI bus: the two
agree where all GPUs are of one kind, or with CUDA_DEVICE_ORDER=PCI_BUS_ID.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
INDEX = re.compile(r"\+?\d+")  # CUDA reads "1x" as 1


@dataclass(frozen=True)
class Gpu:
    """One GPU that CUDA will see, or the MIG slice that it will see of one.

    Attributes:
        name: of the product, such as "NVIDIA L4".
        capability: the compute capability, major and minor.
        memory_bytes: all of it, also what is in use; a slice's own. None where the GPU has no
            memory of its own, as in a GB10.
        uuid: begins with `GPU-`, a slice's with `MIG-`.
    """

    name: str
    capability: tuple[int, int]
    memory_bytes: int | None
    uuid: str

    @property
    def is_mig_slice(self) -> bool:
        """Whether this is a part of a GPU, beside which a process can have no other."""
        return self.uuid.startswith("MIG-")


@dataclass(frozen=True)
class Driver:
    """The driver of the GPUs.

    Attributes:
        version: such as "580.95.05".
        cuda_version: the newest CUDA that it runs, major and minor.
    """

    version: str
    cuda_version: tuple[int, int]


class NoDriver(Exception):
    """There is no driver that answers; the message is NVML's reason."""


def driver() -> Driver:
    """Return the driver.

    Raises:
        NoDriver: there is none, it is not loaded, or nvidia-ml-py is not installed.
    """
    with _nvml() as nvml:
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()  # 13020 is 13.2
        return Driver(nvml.nvmlSystemGetDriverVersion(), (cuda // 1000, cuda % 1000 // 10))


def driver_version() -> str | None:
    """Return the driver's version, None without one."""
    try:
        return driver().version
    except NoDriver:
        return None


def visible_gpus(environ: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs that CUDA will see in a process with this environment; none without a driver.

    Args:
        environ: for CUDA_VISIBLE_DEVICES.
    """
    try:
        with _nvml() as nvml:
            devices = [
                _device(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
                for index in range(nvml.nvmlDeviceGetCount())
            ]
    except NoDriver:
        return []
    return chosen_gpus(devices, environ.get(VISIBLE_DEVICES))


@dataclass(frozen=True)
class Device:
    """What stands at one of NVML's indices: a GPU, or in MIG mode its slices, which may be none."""

    uuid: str
    gpus: list[Gpu]


def chosen_gpus(devices: list[Device], chosen: str | None) -> list[Gpu]:
    """Return what CUDA enumerates of these devices.

    Args:
        devices: of NVML, in its order.
        chosen: the value of CUDA_VISIBLE_DEVICES, None if it is not set.
    """
    named = _named(devices, chosen)
    return [gpu for gpu in named if gpu.is_mig_slice][:1] or named


def _named(devices: list[Device], chosen: str | None) -> list[Gpu]:
    if chosen is None:
        return [gpu for device in devices for gpu in device.gpus]
    by_uuid = {device.uuid: device.gpus[0] for device in devices if device.gpus}
    by_uuid |= {gpu.uuid: gpu for device in devices for gpu in device.gpus}
    visible: list[Gpu] = []
    for entry in map(str.strip, chosen.split(",")):
        if index := INDEX.match(entry):
            named = [gpu for device in devices[int(index[0]) :][:1] for gpu in device.gpus[:1]]
        else:
            named = [gpu for uuid, gpu in by_uuid.items() if entry and uuid.startswith(entry)]
        if len(named) != 1:
            break
        if named[0] in visible:
            return []
        visible += named
    return visible


@contextmanager
def _nvml() -> Iterator[Any]:
    """Return the module `pynvml` with NVML open; its errors become NoDriver."""
    try:
        import pynvml
    except ModuleNotFoundError as error:
        raise NoDriver("nvidia-ml-py is not installed") from error
    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise NoDriver(str(error)) from error


def _device(nvml: Any, handle: Any) -> Device:
    capability = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    usable = _slices(nvml, handle) if _is_mig(nvml, handle) else [handle]
    gpus = [
        Gpu(
            name=nvml.nvmlDeviceGetName(each),
            capability=capability,
            memory_bytes=_memory_bytes(nvml, each),
            uuid=nvml.nvmlDeviceGetUUID(each),
        )
        for each in usable
    ]
    return Device(nvml.nvmlDeviceGetUUID(handle), gpus)


def _is_mig(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except nvml.NVMLError_NotSupported:
        return False  # most GPUs have no MIG


def _slices(nvml: Any, handle: Any) -> list[Any]:
    """Return the handles of a GPU's MIG slices that this process may use."""
    slices = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            slices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
        except nvml.NVMLError_NotFound:
            continue  # the indices of slices have gaps
    return slices


def _memory_bytes(nvml: Any, handle: Any) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):
        return None
