"""A command's output folder: complete or absent, written by one process at a time."""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.errors import CheckpointRefused
from handler.errors import StartError
from handler.model.manifest import MANIFEST_NAME, Manifest, ManifestFile, read_manifest

log = logging.getLogger("builder")

CHUNK_BYTES = 1 << 20
# 2000-01-01: the same content makes the same image layer, whenever it was made.
FIXED_MTIME_SECONDS = 946684800


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` unless an exception is raised."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        part.mkdir(parents=True)
        yield part
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def exclusive_lock(path: Path, report: Callable[[str], object]) -> Iterator[None]:
    """Hold a lock file; report when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another process that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def existing_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder that may be replaced, None if it is absent or empty.

    Raises:
        CheckpointRefused: the folder holds files that no manifest lists.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    found = None
    with suppress(StartError):
        found = read_manifest(folder)
    if found is None:
        raise folder_in_use(folder, "was not made by this command")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if other := sorted(files - {MANIFEST_NAME, *(file.path for file in found.files)}):
        raise folder_in_use(folder, f"has files that are not in its manifest, such as {other[0]}")
    return found


def folder_in_use(folder: Path, reason: str) -> CheckpointRefused:
    """Return the error for a folder that must not be replaced."""
    return CheckpointRefused(f"{folder} {reason}: choose another --out, or remove it.")


def is_intact(folder: Path, expected: Manifest) -> bool:
    """Whether every file of the manifest exists with its size; logs the first that does not."""
    try:
        expected.check(folder)
    except StartError as error:
        log.warning("%s", error)
        return False
    return True


def file_checksums(path: Path, with_git: bool = False) -> tuple[int, str, str]:
    """Return a file's size in bytes, its sha256 and, if `with_git`, its git object id."""
    size = path.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
            if with_git:
                git.update(chunk)
    return size, sha256.hexdigest(), git.hexdigest()


def write_manifest(folder: Path, files: Sequence[ManifestFile], **fields: Any) -> Manifest:
    """Write the manifest of a finished folder and give its files a fixed modification time.

    Args:
        folder: the folder.
        files: all of its files.
        fields: the other fields of `Manifest`.
    """
    for path in folder.rglob("*"):
        os.utime(path, (FIXED_MTIME_SECONDS, FIXED_MTIME_SECONDS))
    made = Manifest(
        files=tuple(files),
        total_bytes=sum(file.bytes for file in files),
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
        **fields,
    )
    made.write(folder)
    return made
