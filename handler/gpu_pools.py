"""Runpod's GPU pools: their memory, speed and prices, from `gpu_pools.json`, which has the sources.

The builder plans with them, and the worker knows from them what its GPUs cost.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

DATA_FILE = Path(__file__).with_name("gpu_pools.json")
MIB = 1 << 20
HOUR_SECONDS = 3600


@dataclass(frozen=True)
class GpuPool:
    """GPUs that cost the same, as one row of Runpod's table.

    Attributes:
        name: Runpod's, as in an endpoint's configuration.
        memory_mib: of the smallest.
        bandwidth_gb_per_second: of the slowest one's memory.
        teraflops: of the slowest one, dense, in 16 bits.
        flex_dollars_per_hour: of a serverless worker with one GPU, None where it is not known.
        pod_dollars_per_hour: of a Pod with one GPU on demand, likewise.
        has_fp8: whether all of them calculate in FP8.
    """

    name: str
    gpu_names: tuple[str, ...]
    memory_mib: int
    bandwidth_gb_per_second: float
    teraflops: float
    flex_dollars_per_hour: float | None
    pod_dollars_per_hour: float | None
    has_fp8: bool

    @property
    def label(self) -> str:
        return ", ".join(self.gpu_names)

    @property
    def memory_bytes(self) -> int:
        return self.memory_mib * MIB

    @property
    def dollars_per_second(self) -> float | None:
        """The price of a flex worker with one GPU."""
        hour = self.flex_dollars_per_hour
        return None if hour is None else hour / HOUR_SECONDS


@dataclass(frozen=True)
class GpuTable:
    """All pools, and the date of their prices."""

    date: str
    pools: tuple[GpuPool, ...]

    def find_pools(self, text: str) -> tuple[GpuPool, ...]:
        """Return the pools with a name or a GPU, such as ADA_48_PRO, H100, 4090 or "6000 Ada"."""
        words = _words(text)

        def has_gpu(pool: GpuPool) -> bool:
            return any(words <= _words(name) for name in pool.gpu_names)

        found = tuple(pool for pool in self.pools if text.lower() == pool.name.lower())
        return found or tuple(pool for pool in self.pools if words and has_gpu(pool))

    def pool_of_device(self, name: str) -> GpuPool | None:
        """Return the pool of a GPU by the driver's name, such as NVIDIA H100 80GB HBM3."""
        words = _words(name)
        found = [
            (len(_words(gpu)), pool)
            for pool in self.pools
            for gpu in pool.gpu_names
            if _words(gpu) <= words
        ]
        return max(found, key=lambda each: each[0], default=(0, None))[1]

    def with_prices(self, date: str, prices: Mapping[str, Sequence[float | None]]) -> "GpuTable":
        """Return the table with other prices.

        Args:
            date: of the prices.
            prices: flex and Pod in dollars per hour, by pool; a pool without any has no prices.
        """
        pools = []
        for pool in self.pools:
            flex, pod = prices.get(pool.name, (None, None))
            pools.append(replace(pool, flex_dollars_per_hour=flex, pod_dollars_per_hour=pod))
        return GpuTable(date, tuple(pools))


def load_gpu_table() -> GpuTable:
    data = json.loads(DATA_FILE.read_text(encoding="utf-8"))
    pools = (GpuPool(**{**pool, "gpu_names": tuple(pool["gpu_names"])}) for pool in data["pools"])
    return GpuTable(data["date"], tuple(pools))


def _words(name: str) -> set[str]:
    return set(re.split(r"[\s-]+", name.lower())) - {"", "rtx"}
