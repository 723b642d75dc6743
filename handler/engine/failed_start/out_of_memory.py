"""The GPU's memory ran out at the start: what the engine's processes have said → a shortage."""

import re
from dataclasses import dataclass

from handler.engine.failed_start.report import DEVICE, KV_CACHE, Failure
from handler.engine.interface import Configuration

GIB = 1 << 30
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": GIB}
# vLLM, v1/core/kv_cache_utils.py; in the first one its text has a parenthesis too many.
CACHE_TOO_SMALL = re.compile(
    r"\((\d+)\), \(?([\d.]+) GiB KV cache is needed.* KV cache memory \(([\d.]+) GiB\)"
)
LENGTH_THAT_FITS = re.compile(r"the estimated maximum model length is (\d+)")
NO_CACHE = re.compile(
    r"No available memory for the cache blocks|Cannot auto-fit max_model_len"
    # SGLang, mem_cache/kv_cache_configurator.py and model_executor/pool_configurator.py
    r"|leave no GPU memory for the KV cache|Not enough memory\. Please try to increase"
)
MINIMUM_FRACTION = re.compile(r"minimum viable = [^=]+ = ([\d.]+)\)")
# PyTorch, c10/cuda/CUDACachingAllocator.cpp
OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory")
ALLOCATION = re.compile(
    r"Tried to allocate ([\d.]+) (\w+)\. GPU \d+ has a total capacity of ([\d.]+) (\w+) "
    r"of which ([\d.]+) (\w+) is free"
)
OWN_MEMORY = re.compile(r"this process has ([\d.]+) (\w+) memory in use")
PYTORCH_MEMORY = re.compile(
    r"([\d.]+) (\w+) is allocated by PyTorch,.* and ([\d.]+) (\w+) is reserved by PyTorch"
)
# CUDA's context, NCCL and kernels have memory too, which PyTorch does not count.
MAX_UNCOUNTED_BYTES = 4 * GIB
UNKNOWN_MISSING_BYTES = GIB  # CUDA itself does not say how much it lacks
ALLOCATIONS_TO_COME = 2  # the one that failed is seldom the last


@dataclass(frozen=True)
class Shortage:
    """What the memory did not suffice for.

    Attributes:
        missing: bytes.
        available: bytes for the KV cache, None if the shortage is another one.
        fitting_tokens: the longest length, as the engine says.
    """

    missing: int
    step: str = ""
    available: int | None = None
    fitting_tokens: int | None = None
    total: int = 0


def is_out_of_memory(failure: Failure) -> bool:
    """Whether a start failed because the GPU's memory did not suffice."""
    text = " ".join(failure.errors)
    return any(said.search(text) for said in (CACHE_TOO_SMALL, NO_CACHE, OUT_OF_MEMORY))


def is_lasting(failure: Failure) -> bool:
    """Whether every such GPU would fail alike.

    Not if other processes hold the memory, as they may at the first step, whose error has no sizes.
    """
    if not is_out_of_memory(failure):
        return failure.is_lasting
    return failure.step != DEVICE and not _is_held_by_others(" ".join(failure.errors))


def _is_held_by_others(text: str) -> bool:
    """Whether PyTorch's sizes leave much that this process does not have.

    `Process N has` says nothing: in a container this process has another number on the host.
    """
    allocation = ALLOCATION.search(text)
    own = OWN_MEMORY.search(text) or PYTORCH_MEMORY.search(text)
    if allocation is None or own is None:
        return False
    _, total, free = _sizes(allocation)
    return total - free - sum(_sizes(own)) > MAX_UNCOUNTED_BYTES


def _sizes(found: re.Match[str]) -> list[int]:
    """Return the sizes that a text has as a number and a unit each, in bytes."""
    parts = found.groups()
    return [
        int(float(size) * UNITS[unit]) for size, unit in zip(parts[::2], parts[1::2], strict=True)
    ]


def shortage_of(failure: Failure, start: Configuration) -> Shortage:
    """Return what the memory did not suffice for, where `is_out_of_memory`."""
    text = " ".join(failure.errors)
    if found := CACHE_TOO_SMALL.search(text):
        needed, available = (int(float(gib) * GIB) for gib in found.groups()[1:])
        fits = LENGTH_THAT_FITS.search(text)
        return Shortage(needed - available, KV_CACHE, available, int(fits[1]) if fits else None)
    if NO_CACHE.search(text):
        available = failure.figures.get("available_bytes", 0)
        if fraction := MINIMUM_FRACTION.search(text):
            available = int((start.memory_fraction - float(fraction[1])) * start.total_bytes)
        needed = start.model_tokens * (start.kv_token_bytes or 0)
        return Shortage(max(1, needed - available), KV_CACHE, available)
    if found := ALLOCATION.search(text):
        wanted, total, free = _sizes(found)
        return Shortage(max(1, wanted - free) * ALLOCATIONS_TO_COME, failure.step, total=total)
    return Shortage(UNKNOWN_MISSING_BYTES, failure.step)
