"""Runs a module that then waits long for the hub: `python -m tests.support.patient builder …`."""

import runpy
import sys

from handler.model import hub, hub_names

SECONDS = 60.0


def wait_for_the_hub() -> None:
    """Let this process wait longer for each answer of the hub."""
    hub.LIST_TIMEOUTS_SECONDS = (SECONDS, SECONDS)
    hub_names.TIMEOUT_SECONDS = SECONDS


if __name__ == "__main__":
    wait_for_the_hub()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
