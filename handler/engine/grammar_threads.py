"""The threads in which an engine compiles the constraints of outputs, and the memory it keeps."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from handler.startup.container_limits import available_cores

CACHE_MIB = 128  # of xgrammar's own cache, for parts of constraints

LOWEST_PRIORITY = 19  # the `nice` of a thread, which Linux has for each


def grammar_threads() -> ThreadPoolExecutor:
    """Return threads for half of the cores; the engine's own threads go before them."""
    workers = max(1, (available_cores() + 1) // 2)
    return ThreadPoolExecutor(workers, "grammar", _lower_priority)


def _lower_priority() -> None:
    """Lower the priority of this thread, and so of those that native code starts from it."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
