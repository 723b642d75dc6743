"""See the package."""

from vllm.platforms.cpu import CpuPlatform


class RayCpuPlatform(CpuPlatform):
    """vLLM's CPU platform, whose ranks Ray places by the GPUs that it was told of."""

    ray_device_key = "GPU"
