"""vLLM's own worker of a rank, with a watch: how long each stage of its start took.

vLLM imports this class in the rank's process by the name in `worker_cls`, and asks it what it has
measured through `collective_rpc`.
"""

import time
from collections.abc import Callable
from typing import Any

from vllm.platforms import current_platform
from vllm.utils.import_utils import resolve_obj_by_qualname

OWN = {"cpu": "vllm.v1.worker.cpu_worker.CPUWorker", "cuda": "vllm.v1.worker.gpu_worker.Worker"}
Timing = tuple[str, float, float]
Rank: Any = resolve_obj_by_qualname(OWN[current_platform.device_name])


class TimedWorker(Rank):
    """A rank that notes when each step of its start began, and how long it took."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._timings: list[Timing] = []
        super().__init__(*args, **kwargs)

    def init_device(self) -> None:
        """Take the device."""
        self._timed("device", super().init_device)

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Read the weights."""
        self._timed("weights", super().load_model, *args, **kwargs)

    def determine_available_memory(self) -> int:
        """Measure the memory that is left, in bytes; what is compiled is compiled here."""
        return int(self._timed("compile and measure memory", super().determine_available_memory))

    def initialize_from_config(self, *args: Any, **kwargs: Any) -> None:
        """Make the KV cache."""
        self._timed("KV cache", super().initialize_from_config, *args, **kwargs)

    def compile_or_warm_up_model(self) -> Any:
        """Capture the graphs."""
        return self._timed("graphs", super().compile_or_warm_up_model)

    def start_timings(self) -> list[Timing]:
        """Return the steps: name, seconds since the epoch, seconds."""
        return self._timings

    def _timed(self, name: str, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        began, started = time.time(), time.monotonic()
        result = step(*args, **kwargs)
        self._timings.append((name, began, time.monotonic() - started))
        return result
