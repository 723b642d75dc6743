"""`python -m handler`: the entry point, which installs the signal handlers before anything else.

The module imports the worker late, because a spawned engine process imports this module too.

A terminal sends Ctrl-C to a whole process group. The engine's processes run in groups of their own,
so that they can finish their requests; the worker stops them afterwards.
"""

import gc
import os
import signal
import sys
from types import FrameType


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    """Raise SystemExit, so that every open context manager is closed."""
    raise SystemExit(128 + number)


if __name__ == "__mp_main__":  # spawned
    os.setpgrp()

if __name__ == "__main__":
    # A spawned process skips a __main__ module that has a spec; without one it imports the file.
    __spec__ = None
    os.register_at_fork(after_in_child=os.setpgrp)
    gc.disable()  # until the engine is imported: a fifth of the time
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_on_signal)
    from handler.worker_process import main

    code = main(sys.argv[1:], os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything has stopped. A normal interpreter shutdown takes seconds with torch loaded, and
    # fails in the engine's finalizers.
    os._exit(code)
