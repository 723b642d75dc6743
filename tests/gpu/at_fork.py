"""Run a worker up to the moment at which vLLM forks its core, and print this process's state.

    python -m tests.gpu.at_fork

The process ends there. What it prints is JSON: whether CUDA is initialised, whether it would be
unusable in the fork, the threads of Python, how many threads the kernel has, and how many compilers
a rank may start.
"""

import json
import os
import sys
import threading

STATE = {}


def before_fork() -> None:
    """Note the state of the process that forks."""
    import torch

    STATE.update(
        cuda_is_initialised=torch.cuda.is_initialized(),
        python_threads=sorted(thread.name for thread in threading.enumerate()),
        threads=len(os.listdir("/proc/self/task")),
        sdk_is_imported="runpod" in sys.modules,
        compilers=os.environ["MAX_JOBS"],
    )


def in_fork() -> None:
    """Print the state, and end the fork."""
    import torch

    print(json.dumps(STATE | {"cuda_fails_in_the_fork": torch.cuda._is_in_bad_fork()}), flush=True)
    os._exit(0)


def after_fork() -> None:
    """End the process after its fork."""
    os.wait()
    os._exit(0)


def main() -> None:
    """Start the worker of the environment."""
    os.register_at_fork(before=before_fork, after_in_parent=after_fork, after_in_child=in_fork)
    from handler.command_line import main as run_worker

    sys.exit(run_worker([], os.environ))


if __name__ == "__main__":
    main()
