"""What a worker holds after many jobs, against what it holds after the first of them."""

from collections.abc import Sequence

from benchmarks import load
from benchmarks.case import Bench, Case, Measured
from benchmarks.processes import memory_bytes
from benchmarks.report import Row, Table, at_most

STREAMS = 64
TOKENS = 8
STEPS = 20
# Two caches of the engine fill for thousands of jobs, and would look like a leak. Blocks of the KV
# cache are taken in turn and count once they are written to: few are soon all written to. oneDNN
# keeps what it compiled for each shape of a batch.
ENVIRONMENT = {"NUM_GPU_BLOCKS_OVERRIDE": "256", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "4"}
NOTE = (
    "All of the worker's processes, without pages of files. The KV cache has 256 blocks and oneDNN "
    "keeps 4 compiled kernels in place of 1,024: both would fill for many thousand jobs."
)


def measure(bench: Bench) -> Measured:
    """Look at the memory twenty times; the platform forgets each job when it is done."""
    step = max(bench.jobs // STEPS, STREAMS)
    held: dict[int, int] = {}
    with bench.serving(bench.environment(**ENVIRONMENT)) as endpoint:
        for number in range(1, STEPS + 1):
            load.run(endpoint.platform, STREAMS, step, TOKENS)
            held[number * step] = memory_bytes(endpoint.pid)
    return {"bytes_after_jobs": held}


def tables(measured: Measured) -> Sequence[Table]:
    """Return the last look against the first."""
    held = {int(jobs): number for jobs, number in measured["bytes_after_jobs"].items()}
    first, last = min(held), max(held)
    row = Row("memory of the worker (bytes)", held[first], held[last], at_most(1.01))
    return [Table(f"after {first:,} jobs", f"after {last:,} jobs", [row], NOTE)]


CASE = Case("memory", "Memory after many jobs", measure, tables)
