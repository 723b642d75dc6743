"""Weights → the kernel's page cache, while Python imports the engine.

An engine maps its weights and then waits for the disk page by page. Read before, in order and
several files at once, they are in memory when it comes. Whether they were needed, or fit beside
what else runs, only the kernel knows: it drops them first.
"""

import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

READERS = 4  # a network volume answers several readers faster than one
PIECE_BYTES = 8 << 20
SHARE_OF_FREE_MEMORY = 0.8
CGROUP = Path("/sys/fs/cgroup")


def prefetch(folder: Path) -> list[threading.Thread]:
    """Begin to read a checkpoint's weights; return the threads that do it.

    They hold no lock of Python while they read: a fork may happen beside them. Nothing is read
    where the weights would not fit into the free memory: reading would push itself out again.
    """
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.is_file()]
    whole, free = sum(path.stat().st_size for path in files), _free_bytes()
    if not whole:
        return []
    if whole > free * SHARE_OF_FREE_MEMORY:
        log.info(
            "the weights (%.1f GB) are not read ahead: %.1f GB are free", whole / 1e9, free / 1e9
        )
        return []
    left = iter(files)
    lock = threading.Lock()
    readers = [
        threading.Thread(target=_read_all, args=(left, lock), name="prefetch", daemon=True)
        for _ in range(min(READERS, len(files)))
    ]
    for reader in readers:
        reader.start()
    return readers


def _read_all(files: Iterable[Path], lock: threading.Lock) -> None:
    piece = bytearray(PIECE_BYTES)
    while True:
        with lock:
            path = next(iter(files), None)
        if path is None:
            return
        try:
            with path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                while file.readinto(piece):
                    pass
        except OSError as error:  # the engine reads it again, and says what is wrong
            log.warning("%s cannot be read ahead: %s", path.name, error.strerror)


def _free_bytes() -> int:
    """Return the memory that is free, by the machine's count and by the container's limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text())  # `max` where there is none
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    return min(free, limit - used + int(stat.get("inactive_file", 0)))
