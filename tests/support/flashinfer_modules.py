"""FlashInfer's modules, by name: those that an engine loads, and those that the build compiles.

It runs in the engines' CUDA environments.
"""

import os
from pathlib import Path
from typing import Any


class Functions:
    """A module whose functions return nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **more: None


def capture_modules() -> list[str]:
    """Return a list to which each module that is loaded from now on adds its name.

    Functions that return nothing take its place: nothing is compiled.
    """
    from flashinfer.jit import core

    names: list[str] = []

    def build_and_load(specification: Any) -> Functions:
        names.append(specification.name)
        return Functions()

    getattr(core, "JitSpecNvcc", core.JitSpec).build_and_load = build_and_load
    return names


def compiled_modules(engine: str, folder: str, gpus: int = 1) -> list[str]:
    """Return the modules that `builder.kernels` compiles for a model and the simulated GPU."""
    from builder.kernel_modules import read_model, specifications

    capability = os.environ["SIMULATED_GPU_CAPABILITY"]
    architecture = capability if capability.startswith("8.") else f"{capability}a"
    model = read_model(Path(folder, "config.json"))
    by_targets = specifications([architecture], engine, model, gpus)
    return sorted(describe().name for describes in by_targets.values() for describe in describes)
