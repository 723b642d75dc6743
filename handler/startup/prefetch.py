"""Prefetch of weights into the kernel's page cache, while Python imports the engine.

An engine maps its weights and then waits for the disk page by page. Sequential reads of several
files at once are faster, and the engine finds the pages in memory. The kernel drops them first
when memory is needed.
"""

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from handler.startup.container_limits import available_memory_bytes

log = logging.getLogger(__name__)

MAX_READERS = 4  # a network volume serves several readers faster than one
CHUNK_BYTES = 8 << 20
MAX_MEMORY_SHARE = 0.8
# Where fastsafetensors 0.5 reads through the page cache.
NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "sshfs", "fuse.sshfs", "lustre", "gpfs", "beegfs"),
    *("glusterfs", "ceph", "9p", "virtiofs"),
}


def prefetch_weights(
    folder: Path, *, max_readers: int = MAX_READERS, available_bytes: int | None = None
) -> list[threading.Thread]:
    """Start to read a checkpoint's safetensors files; return the reader threads.

    Weights that do not fit into memory are not read: they would evict each other. A reader holds
    no lock while it reads, so a fork at the same time is safe.

    Args:
        folder: of the checkpoint.
        max_readers: how many files are read at once.
        available_bytes: memory for them; None is what the machine and the container allow.
    """
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.is_file()]
    weight_bytes = sum(path.stat().st_size for path in files)
    if not weight_bytes:
        return []
    if available_bytes is None:
        available_bytes = available_memory_bytes()
    if weight_bytes > available_bytes * MAX_MEMORY_SHARE:
        log.info(
            "no prefetch of the weights: %.1f GB with %.1f GB of memory available",
            weight_bytes / 1e9,
            available_bytes / 1e9,
        )
        return []
    remaining, lock = iter(files), threading.Lock()
    readers = [
        threading.Thread(target=_read_files, args=(remaining, lock), name="prefetch", daemon=True)
        for _ in range(min(max_readers, len(files)))
    ]
    for reader in readers:
        reader.start()
    return readers


def reads_around_page_cache(load_format: str, folder: Path, environ: Mapping[str, str]) -> bool:
    """Whether an engine's loader of weights reads with direct I/O, so that a prefetch is wasted.

    From the sources of instanttensor 0.2.2, fastsafetensors 0.5.0 and Run:ai's streamer.
    """
    if load_format == "instanttensor":
        backend = environ.get("INSTANTTENSOR_BACKEND", "")
        return not ("BUFFERED" in backend or "MMAP" in backend)
    if load_format == "fastsafetensors":
        chosen = environ.get("FASTSAFETENSORS_ODIRECT")
        return chosen == "1" if chosen else _file_system(folder) not in NETWORK_FILE_SYSTEMS
    if load_format.startswith("runai_streamer"):
        strategy = environ.get("RUNAI_STREAMER_FS_STRATEGY", "")
        return environ.get("RUNAI_STREAMER_DIRECTIO") == "1" or "direct" in strategy
    return False


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on."""
    folder = folder.resolve()
    mounts = [
        (len(mount.mountpoint), mount.fstype)
        for mount in psutil.disk_partitions(all=True)
        if folder.is_relative_to(mount.mountpoint)
    ]
    return max(mounts, default=(0, ""))[1]


def _read_files(remaining: Iterator[Path], lock: threading.Lock) -> None:
    chunk = bytearray(CHUNK_BYTES)
    while True:
        with lock:
            path = next(remaining, None)
        if path is None:
            return
        try:
            with path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                while file.readinto(chunk):
                    pass
        except OSError as error:  # the engine reads it again and reports what is wrong
            log.warning("prefetch of %s failed: %s", path.name, error.strerror)
