"""A benchmark case, and the device, folder and options that each case gets."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.devices import ROOT, Device
from benchmarks.models import write_model
from benchmarks.queue_worker import WORKER, QueueWorker, WorkerCommand, running_queue_worker
from benchmarks.report import Bounds, Table

DEMO_MODEL = ROOT / "models/smollm2-135m-instruct"


@dataclass(frozen=True)
class Bench:
    """Device, folder and options of a case.

    Attributes:
        device: where the engine computes.
        folder: for models, caches and logs; it is removed afterwards.
        options: of the command line: `rounds`, `starts`, `concurrency` …
        save: stores the results so far.
    """

    device: Device
    folder: Path
    options: argparse.Namespace
    save: Callable[[Any], None]

    def dummy_model(self, quantization: str = "none") -> Path:
        """Checkpoint of the device's shape, whose weights the engine draws at random."""
        return write_model(self.folder / f"dummy-{quantization}", self.device.shape, quantization)

    def environment(self, engine: str = "vllm", **more: str) -> dict[str, str]:
        """Environment of a worker with the dummy model."""
        environ = self.device.environment(self.dummy_model(), engine, dummy_weights=True)
        return {"VLLM_CACHE_ROOT": str(self.folder / "cache"), **environ, **more}

    def demo_environment(self, variant: str, **more: str) -> dict[str, str]:
        """Environment of a worker with the demo model in bf16, awq or fp8.

        A device without demo models has a dummy model in its place.
        """
        if not self.device.has_demo_models:
            model = self.dummy_model("none" if variant == "bf16" else variant)
            return self.environment(MODEL_NAME=str(model), **more)
        model = DEMO_MODEL.with_name(f"{DEMO_MODEL.name}-{variant}")
        environ = self.device.environment(model, dummy_weights=False)
        return {"VLLM_CACHE_ROOT": str(self.folder / "cache"), **environ, **more}

    def levels(self, default: Sequence[int]) -> Sequence[int]:
        """Levels of the command line, or those of the default that the device can batch."""
        most = self.device.vllm_args["max_num_seqs"]
        return self.options.concurrency or tuple(level for level in default if level <= most)

    def queue_worker(
        self, environ: Mapping[str, str], worker: WorkerCommand = WORKER, accept_queue: int = 128
    ) -> AbstractContextManager[QueueWorker]:
        """Run a worker behind the local platform, with the device's build of the engine."""
        python = self.device.python[worker.engine]
        worker = replace(worker, command=(python, *worker.command[1:]))
        log = self.folder / f"{worker.name}.log"
        return running_queue_worker(worker, environ, log, accept_queue)


@dataclass(frozen=True)
class Case:
    """One measurement, with its name on the command line.

    Attributes:
        measure: runs the case; its return value is stored as JSON.
        tables: makes tables from the stored JSON.
    """

    name: str
    title: str
    measure: Callable[[Bench], Any]
    tables: Callable[[Any], Sequence[Table | Bounds]]
