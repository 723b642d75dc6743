"""A plugin of vLLM that lets its CPU build work on a Ray cluster, for the tests.

vLLM asks Ray for devices by the platform's name for them, and its CPU platform has none: "current
platform cpu does not support ray". Here a rank on a CPU is what Ray calls a GPU, and the cluster
is started with as many as there are ranks. All else is vLLM's own.
"""


def register() -> str:
    """Name the platform; vLLM imports it when it needs it."""
    return "ray_cpu.platform.RayCpuPlatform"
