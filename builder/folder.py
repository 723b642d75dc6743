"""A folder that appears whole or not at all, and is made by one process at a time."""

import fcntl
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, and put it in its place if nothing goes wrong."""
    part = folder.with_name(f".{folder.name}.part")
    # A run that was killed could not remove its own.
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        _replace(folder, part)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process has the lock, which is a file."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that has {lock}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(folder: Path, part: Path) -> None:
    """Put `part` in the place of `folder`, which an older recipe may have made."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
