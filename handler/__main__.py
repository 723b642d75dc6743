"""`python -m handler`: the entry point, which installs the signal handlers before anything else.

The module imports the worker late, because a spawned engine process imports this module too.

A terminal sends Ctrl-C to a whole process group. The engine's processes run in groups of their own,
so that they can finish their requests; the worker stops them afterwards.
"""

import gc
import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from types import FrameType


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    """Raise SystemExit, so that every open context manager is closed."""
    raise SystemExit(128 + number)


def _without_garbage_collection_until_run() -> None:
    """Turn garbage collection off while a spawned process imports what its target needs.

    It takes a quarter of that time. What was imported is excluded from collections while it runs,
    but not from the one at the end: libraries would report what they keep as leaks.
    """
    gc.disable()
    run = BaseProcess.run

    def collecting(self: BaseProcess) -> None:
        gc.freeze()
        gc.enable()
        try:
            run(self)
        finally:
            gc.unfreeze()

    BaseProcess.run = collecting  # type: ignore[method-assign]


if __name__ == "__mp_main__":  # spawned
    os.setpgrp()
    _without_garbage_collection_until_run()
    from handler.engine.failed_start.report import watch_processes

    watch_processes()

if __name__ == "__main__":
    # A spawned process skips a __main__ module that has a spec; without one it imports the file.
    __spec__ = None
    os.register_at_fork(after_in_child=os.setpgrp)
    gc.disable()  # until the engine is imported: a fifth of the time
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_on_signal)
    # A first start that began this one has blocked them until now (second_start.py).
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    from handler.command_line import main

    code = main(sys.argv[1:], os.environ)
    for child in multiprocessing.active_children():  # the SDK's process of pings
        child.kill()
        child.join()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything has stopped. A normal interpreter shutdown takes seconds with torch loaded, and
    # fails in the engine's finalizers.
    os._exit(code)
