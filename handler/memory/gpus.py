"""How much memory the GPUs have that the engine will see.

`nvidia-smi` is asked, never CUDA: a process that has initialised it can no longer fork its engine.
"""

import subprocess
from collections.abc import Sequence

COMMAND = "nvidia-smi"
ANSWER_SECONDS = 20.0
MIB = 1 << 20


def memory_bytes(gpus: Sequence[str]) -> int | None:
    """Return the memory of the smallest of some GPUs, None where that cannot be told.

    Args:
        gpus: their indices, or what CUDA_VISIBLE_DEVICES calls them.
    """
    if not gpus:
        return None
    query = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")
    try:
        asked = subprocess.run(
            [COMMAND, "-i", ",".join(gpus), *query],
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
        )
        return min(int(line) for line in asked.stdout.split("\n") if line.strip()) * MIB
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None  # no such program, a part of a GPU (MIG), or no answer
