"""Runpod's GPU pools, their memory and prices; `gpus.json` has the figures and their sources."""

import json
from dataclasses import dataclass
from pathlib import Path

from builder.errors import InvalidArgument

DATA_FILE = Path(__file__).with_name("gpus.json")
MIB = 1 << 20
GPU_COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class GpuPool:
    """GPUs that cost the same, as one row of Runpod's table.

    Attributes:
        name: Runpod's, as in an endpoint's configuration.
        memory_mib: of the smallest.
        bandwidth_gb_per_second: of the slowest one's memory.
        dollars_per_second: of a flex worker with one GPU, None where it is not known.
        has_fp8: whether all of them calculate in FP8.
    """

    name: str
    gpu_names: tuple[str, ...]
    memory_mib: int
    bandwidth_gb_per_second: float
    dollars_per_second: float | None
    has_fp8: bool

    @property
    def label(self) -> str:
        return ", ".join(self.gpu_names)

    @property
    def memory_bytes(self) -> int:
        return self.memory_mib * MIB


@dataclass(frozen=True)
class GpuTable:
    """All pools, and the date of their prices."""

    date: str
    pools: tuple[GpuPool, ...]

    def find_pools(self, text: str) -> tuple[GpuPool, ...]:
        """Return the pools with a name or a GPU, such as ADA_48_PRO, H100, 4090 or "6000 Ada".

        Raises:
            InvalidArgument: there is none.
        """
        words = set(text.lower().replace("rtx", "").split())

        def has_gpu(pool: GpuPool) -> bool:
            return any(words <= set(name.lower().split()) for name in pool.gpu_names)

        found = tuple(pool for pool in self.pools if text.lower() == pool.name.lower())
        found = found or tuple(pool for pool in self.pools if words and has_gpu(pool))
        if not found:
            known = "; ".join(f"{pool.name} ({pool.label})" for pool in self.pools)
            raise InvalidArgument(f"--gpu {text!r}: unknown GPU or pool. Known are {known}.")
        return found


def load_gpu_table() -> GpuTable:
    data = json.loads(DATA_FILE.read_text(encoding="utf-8"))
    pools = (GpuPool(**{**pool, "gpu_names": tuple(pool["gpu_names"])}) for pool in data["pools"])
    return GpuTable(data["date"], tuple(pools))
