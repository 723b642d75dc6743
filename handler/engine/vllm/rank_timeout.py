"""vLLM's timeout for a step of several ranks, without the time for which the worker was frozen.

The core waits VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS for its ranks, on the monotonic clock, and ends
with all requests when it has passed. After a long freeze within a step it has passed before the
ranks have gone on.
"""

import contextlib
import time
from typing import Any

from handler.engine.awake_clock import AwakeClock
from handler.supervisor import Supervisor


class AwakeTime:
    """The module `time` with a monotonic clock that stands still in a freeze."""

    def __init__(self, clock: AwakeClock) -> None:
        self.monotonic = clock.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def leave_out_freezes() -> None:
    """Replace the clock of a core that is a fork of this process; the core itself watches it."""
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.v1.executor import multiproc_executor

    clock = AwakeClock(logs=False)  # the worker's own has a line for each freeze
    shm_broadcast.time = multiproc_executor.time = AwakeTime(clock)
    executor = multiproc_executor.MultiprocExecutor
    init = executor._init_executor

    def replacement(self: Any) -> None:
        init(self)  # forks the ranks: no thread may work before
        self._watch_for_freezes = contextlib.ExitStack()
        self._watch_for_freezes.enter_context(clock.ticking(Supervisor()))

    executor._init_executor = replacement
