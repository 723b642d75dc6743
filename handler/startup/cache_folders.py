"""The folders of compiled code below CACHE_ROOT, one for each key, and the bound for all of them.

    python -m handler.startup.cache_folders FOLDER MAX_BYTES

CACHE_ROOT may be on a network volume, where workers of other GPUs, drivers and engine versions
leave a folder each.

- A file in the folder has the key, and as its time the last use. A worker writes it at its start
  and every hour; what has no such file is not a folder of a key.
- A folder that was used within the last day stays. Another one is renamed, looked at again and then
  removed: a worker that starts at that moment has all of its files, or none.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

USE = ".last-use"
REMOVED = ".removed-"
USE_INTERVAL_SECONDS = 3600.0
MIN_UNUSED_SECONDS = 24 * 3600.0


def note_use(folder: Path) -> None:
    """Note that the folder of a key is in use.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / USE).write_text(folder.name)


def remove_unused_folders(own: Path, max_bytes: int) -> int:
    """Remove folders of other keys, the last use of which is oldest, until all fit.

    Args:
        own: the folder of this worker's key, beside those of the other keys.
        max_bytes: the bound for all of them.

    Returns:
        The size of those that are left.
    """
    for removed in own.parent.glob(f"{REMOVED}*"):  # by a process that was killed
        if _is_unused(removed):
            shutil.rmtree(removed, ignore_errors=True)
    folders = [path for path in own.parent.iterdir() if _last_use(path)[0] == path.name]
    sizes = {path: _size(path) for path in folders}
    total = sum(sizes.values())
    for path in sorted(folders, key=lambda path: _last_use(path)[1]):
        if total > max_bytes and path != own and _is_unused(path) and _remove(path):
            total -= sizes[path]
    return total


def _remove(folder: Path) -> bool:
    """Remove a folder unless a worker has just begun to use it; return whether it is gone."""
    removed = folder.with_name(f"{REMOVED}{time.time_ns()}-{os.getpid()}")
    try:
        folder.rename(removed)
    except OSError:  # another worker was faster, or the folder is another user's
        return not folder.exists()
    if not _is_unused(removed):
        with contextlib.suppress(OSError):  # the worker has begun a new one
            removed.rename(folder)
        return False
    shutil.rmtree(removed, ignore_errors=True)
    return True


def _last_use(folder: Path) -> tuple[str, float]:
    """Return the key and the time of the last use; an empty key if it is not a folder of one.

    The file is opened because a network file system then asks the server for its time.
    """
    try:
        with (folder / USE).open() as file:
            key = "" if folder.is_symlink() else file.read()
            return key, os.fstat(file.fileno()).st_mtime
    except (OSError, ValueError):
        return "", 0.0


def _is_unused(folder: Path) -> bool:
    return _last_use(folder)[1] < time.time() - MIN_UNUSED_SECONDS


def _size(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # a compiler's temporary file
                size += os.lstat(os.path.join(parent, name)).st_size
    return size


def main(arguments: Sequence[str]) -> int:
    """Remove folders, and say if those that are left are too large."""
    own, max_bytes = Path(arguments[0]), int(arguments[1])
    left = remove_unused_folders(own, max_bytes)
    if left > max_bytes:
        print(
            f"compile cache: {left / 1e9:.1f} GB below {own.parent}, "
            f"CACHE_MAX_GB={max_bytes / 1e9:g}: all of it was used within the last day",
            file=sys.stderr,
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
