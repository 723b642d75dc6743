"""Run a worker up to the moment at which vLLM forks its core, and print this process's state.

    python -m tests.gpu.at_fork

The process ends there. What it prints is JSON: whether CUDA is initialised, whether it would be
unusable in the fork, the threads of Python, and how many threads the kernel has by their name.
"""

import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path


def report() -> None:
    """Print the state, then end the process."""
    import torch

    child = os.fork()
    if not child:
        os._exit(torch.cuda._is_in_bad_fork())
    _, status = os.waitpid(child, 0)
    state = {
        "cuda_is_initialised": torch.cuda.is_initialized(),
        "cuda_fails_in_the_fork": os.waitstatus_to_exitcode(status) != 0,
        "python_threads": sorted(thread.name for thread in threading.enumerate()),
        "threads": Counter(
            path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")
        ),
        "sdk_is_imported": "runpod" in sys.modules,
    }
    print(json.dumps(state), flush=True)
    os._exit(0)


def main() -> None:
    """Start the worker of the environment."""
    forked = False

    def before_fork() -> None:
        nonlocal forked
        if not forked:  # the first fork is vLLM's, the second that of `report`
            forked = True
            report()

    os.register_at_fork(before=before_fork)
    from handler.worker_process import main as run_worker

    sys.exit(run_worker([], os.environ))


if __name__ == "__main__":
    main()
