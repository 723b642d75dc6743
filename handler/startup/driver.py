"""The driver check: what a CUDA build of an engine finds of the host's driver, before any download.

Without it an engine reports a missing driver after seconds of imports, in words of its own.
"""

import ctypes
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from handler.errors import EngineStartFailed
from handler.settings.types import TRUE_WORDS
from handler.startup.gpus import VISIBLE_DEVICES, NoDriver, driver, visible_gpus

CUDA_LIBRARY = "libcuda.so.1"
NVML_LIBRARY = "libnvidia-ml.so.1"
CAPABILITIES = "NVIDIA_DRIVER_CAPABILITIES"  # what of the driver is put into a container
# vLLM's variable: its processes load a newer libcuda, which the image has for data-center GPUs.
COMPATIBILITY = "VLLM_ENABLE_CUDA_COMPATIBILITY"
TORCH_CUDA = re.compile(r"^cuda\b.*= '(\d+)\.(\d+)'", re.MULTILINE)


def check_driver(environ: Mapping[str, str]) -> None:
    """Refuse a host or container whose driver cannot run the CUDA that PyTorch was built for.

    A driver runs all CUDA versions of its own major version, and older ones. A build for CPUs needs
    no driver.

    Args:
        environ: for CUDA_VISIBLE_DEVICES and the container's variables.

    Raises:
        EngineStartFailed: there is no driver, an older one, or no GPU; says what to change.
    """
    cuda = torch_cuda_version()
    if cuda is None or find_spec("pynvml") is None:
        return
    # An engine's image may have a libcuda of its own: without NVML it says nothing.
    has_nvml, has_cuda = _can_load(NVML_LIBRARY), _can_load(CUDA_LIBRARY)
    capabilities = environ.get(CAPABILITIES, "")
    gives_nvml = not capabilities or "utility" in capabilities or "all" in capabilities
    if not has_nvml and gives_nvml:
        raise EngineStartFailed(
            "There is no NVIDIA driver in this container: start it with `--gpus all`, on a host "
            "with an NVIDIA GPU."
        )
    if not has_nvml or not has_cuda:
        raise EngineStartFailed(
            f"The NVIDIA driver's {CUDA_LIBRARY if has_nvml else NVML_LIBRARY} is missing in this "
            f"container: start it with `--gpus all` and {CAPABILITIES}=compute,utility."
        )
    try:
        found = driver()
    except NoDriver as error:
        raise EngineStartFailed(
            f"The host's NVIDIA driver does not work ({error}): choose another host."
        ) from error
    has_compatibility = environ.get(COMPATIBILITY, "").strip().lower() in TRUE_WORDS
    if found.cuda_version[0] < cuda[0] and not has_compatibility:
        raise EngineStartFailed(
            f"The host's NVIDIA driver {found.version} runs CUDA {_text(found.cuda_version)} and "
            f"older, and PyTorch is built for CUDA {_text(cuda)}: choose a host with CUDA "
            f"{cuda[0]}.0 or newer (on Runpod by the endpoint's allowedCudaVersions or "
            "minCudaVersion)."
        )
    if not visible_gpus(environ):
        chosen = environ.get(VISIBLE_DEVICES)
        raise EngineStartFailed(
            "The NVIDIA driver shows no GPU: start the container with `--gpus all`."
            if chosen is None
            else f"{VISIBLE_DEVICES}={chosen!r} leaves no GPU: remove it, or name a GPU that "
            "`nvidia-smi -L` lists."
        )


def torch_cuda_version() -> tuple[int, int] | None:
    """Return the CUDA version that PyTorch was built for; None for a CPU build, or without PyTorch.

    PyTorch is not imported, which takes seconds: the version stands in a file of its own.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    cuda = TORCH_CUDA.search(version)
    return (int(cuda[1]), int(cuda[2])) if cuda else None


def _can_load(library: str) -> bool:
    """Whether the library is there; loading libcuda does not initialise CUDA."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
