"""A folder that appears whole or not at all, and is made by one process at a time."""

import fcntl
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

# 2000-01-01: the same content makes the same image layer, whenever it was made.
MTIME_SECONDS = 946684800


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


def strangers(folder: Path, own: Collection[str]) -> list[str]:
    """Return the files that are in the folder and not among its own."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted({path.relative_to(folder).as_posix() for path in files} - set(own))


def level_dates(folder: Path) -> None:
    """Give everything in the folder the same date."""
    for path in folder.rglob("*"):
        os.utime(path, (MTIME_SECONDS, MTIME_SECONDS))


def _replace(folder: Path, part: Path) -> None:
    """Put `part` in the place of `folder`, which an older recipe may have made."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
