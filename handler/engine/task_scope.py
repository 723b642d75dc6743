"""The end of a job's task, which nobody may be awaiting."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def until_task_ends(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` on the way out, or when the SDK's job task ends, for whatever reason that does.

    A cancelled task leaves the generator suspended at a yield until it is collected; the task's
    own callback does not wait for that.
    """
    ended = False

    def once(_: object = None) -> None:
        nonlocal ended
        if not ended:
            ended = True
            end()

    task = asyncio.current_task()
    if task is not None:
        task.add_done_callback(once)
    try:
        yield
    finally:
        if task is not None:
            task.remove_done_callback(once)
        once()
