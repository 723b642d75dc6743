"""vLLM's worker of a rank, which also measures the stages of its start and reports its failure.

vLLM imports the class in the rank's process by its name in `worker_cls`; the adapter reads the
timings through `collective_rpc`.
"""

# ruff: noqa: E402
import time

BEGAN_WORK = time.time()  # before the imports of vLLM's own worker

from collections.abc import Callable
from typing import Any

from vllm.platforms import current_platform
from vllm.utils.import_utils import resolve_obj_by_qualname

from handler.engine.failed_start.report import (
    DEVICE,
    GRAPHS,
    KV_CACHE,
    MEASURE,
    WEIGHTS,
    report_figures,
    reported,
)
from handler.engine.vllm.core_process import core_started
from handler.engine.vllm.grammars import use_in_core

VLLM_WORKERS = {
    "cpu": "vllm.v1.worker.cpu_worker.CPUWorker",
    "cuda": "vllm.v1.worker.gpu_worker.Worker",
}
use_in_core()  # a core that was not forked has it from here, if it also is the rank
Timing = tuple[str, float, float]  # stage, seconds since the epoch, seconds
VllmWorker: Any = resolve_obj_by_qualname(VLLM_WORKERS[current_platform.device_name])


class TimedWorker(VllmWorker):
    """A worker that records when each stage of its start began, and how long it took."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        imports = ("imports of the rank", BEGAN_WORK, time.time() - BEGAN_WORK)
        self._timings: list[Timing] = [core_started(BEGAN_WORK), imports]
        with reported():
            super().__init__(*args, **kwargs)

    def init_device(self) -> None:
        self._timed(DEVICE, super().init_device)

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        if current_platform.is_cpu():
            from handler.engine.vllm.dequantized import dequantize_without_kernel

            dequantize_without_kernel()
        self._timed(WEIGHTS, super().load_model, *args, **kwargs)

    def determine_available_memory(self) -> int:
        """Return the free memory in bytes, negative if it lacks; the model is compiled here."""
        available = int(self._timed(MEASURE, super().determine_available_memory))
        graphs = int(getattr(self, "cudagraph_memory_estimate", 0))
        report_figures(available_bytes=available, graph_bytes=graphs)
        return available

    def initialize_from_config(self, *args: Any, **kwargs: Any) -> None:
        self._timed(KV_CACHE, super().initialize_from_config, *args, **kwargs)

    def compile_or_warm_up_model(self) -> Any:
        return self._timed(GRAPHS, super().compile_or_warm_up_model)

    def start_timings(self) -> list[Timing]:
        return self._timings

    def _timed(self, name: str, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        began, started = time.time(), time.monotonic()
        with reported(name):
            result = step(*args, **kwargs)
        self._timings.append((name, began, time.monotonic() - started))
        return result
