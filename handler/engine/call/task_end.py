"""Clean-up at the end of an asyncio task, also of one that is never awaited."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def call_at_task_end(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` once: when the context is left, or when the current task ends before that.

    A cancelled task leaves an async generator suspended at its yield until it is garbage-collected.
    The task's done callback runs before that.
    """
    ended = False

    def end_once(_: object = None) -> None:
        nonlocal ended
        if not ended:
            ended = True
            end()

    task = asyncio.current_task()
    if task is not None:
        task.add_done_callback(end_once)
    try:
        yield
    finally:
        if task is not None:
            task.remove_done_callback(end_once)
        end_once()
