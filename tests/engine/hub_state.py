"""Run a worker up to the fork of vLLM's core; print what the worker and the core know of the hub.

    python -m tests.engine.hub_state

The process ends there. Each prints one line of JSON: the variables, and what huggingface-hub has
read of them, which is where the engine looks.
"""

import json
import os
import sys

NAMES = ("HF_HUB_OFFLINE", "HF_HUB_CACHE")


def print_state() -> None:
    """Print the state of this process, and end it."""
    from huggingface_hub import constants

    state = {
        "variables": [os.environ.get(name) for name in NAMES],
        "constants": [getattr(constants, name) for name in NAMES],
    }
    print(json.dumps(state), flush=True)


def in_fork() -> None:
    """End the fork."""
    print_state()
    os._exit(0)


def after_fork() -> None:
    """End the process after its fork."""
    os.wait()
    print_state()
    os._exit(0)


def main() -> None:
    """Start the worker of the environment."""
    os.register_at_fork(after_in_parent=after_fork, after_in_child=in_fork)
    from handler.command_line import main as run_worker

    sys.exit(run_worker([], os.environ))


if __name__ == "__main__":
    main()
