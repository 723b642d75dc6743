"""`python -m handler`: the worker's process, which a signal ends in order from its first moment.

Imports nothing of its own before that: a spawned process of the engine imports this module too.

A terminal sends Ctrl-C to a whole process group. The engine's processes leave the worker's, so that
they answer the requests that they have; the worker ends them afterwards.
"""

import os
import signal
import sys
from types import FrameType


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    """End in order: every context that was entered is left."""
    raise SystemExit(128 + number)


if __name__ == "__mp_main__":  # spawned
    os.setpgrp()

if __name__ == "__main__":
    # A spawned process does not import a module that is named like a package's __main__; with a
    # path alone it does.
    __spec__ = None
    os.register_at_fork(after_in_child=os.setpgrp)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_on_signal)
    from handler.worker_process import main

    code = main(sys.argv[1:], os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is stopped. The interpreter's own end would take seconds with torch loaded, and
    # fail in the engine's finalizers.
    os._exit(code)
