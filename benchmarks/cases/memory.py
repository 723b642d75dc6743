"""Memory of a worker after many jobs, compared with its memory after the first of them."""

from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.load import chat_bodies
from benchmarks.machine import memory_bytes
from benchmarks.report import Row, Table, Target

CONCURRENCY = 64
TOKENS = 8
STEPS = 20
# Two caches of the engine fill for thousands of jobs, and would look like a leak. Blocks of the KV
# cache are taken in turn and count once they are written to: few are soon all written to. oneDNN
# keeps what it compiled for each shape of a batch.
ENVIRONMENT = {"NUM_GPU_BLOCKS_OVERRIDE": "256", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "4"}
NOTE = (
    "All of the worker's processes, without pages of files. The KV cache has 256 blocks and oneDNN "
    "keeps 4 compiled kernels instead of 1,024: both would fill for many thousand jobs."
)


def measure(bench: Bench) -> dict[str, Any]:
    """Read the memory twenty times; the platform forgets each job when it is done."""
    step = max(bench.options.jobs // STEPS, CONCURRENCY)
    held: dict[int, int] = {}
    with bench.queue_worker(bench.environment(**ENVIRONMENT)) as running:
        for number in range(1, STEPS + 1):
            running.send_all(CONCURRENCY, chat_bodies(step, TOKENS))
            held[number * step] = memory_bytes(running.pid)
    return {"bytes_after_jobs": held}


def tables(measured: Any) -> Sequence[Table]:
    held = {int(jobs): number for jobs, number in measured["bytes_after_jobs"].items()}
    first, last = min(held), max(held)
    before, after = held[first] / 2**20, held[last] / 2**20
    row = Row("memory of the worker (MiB)", before, after, Target(1.01, is_maximum=True))
    return [Table(f"after {first:,} jobs", f"after {last:,} jobs", [row], NOTE)]


CASE = Case("memory", "Memory after many jobs", measure, tables)
