"""Archives of compiled code: one tar file for each key, in a folder that workers share.

    python -m handler.startup.cache_archive restore FOLDER ARCHIVE…
    python -m handler.startup.cache_archive save FOLDER ARCHIVE MAX_BYTES
    python -m handler.startup.cache_archive pack ROOT TARGET

- An archive is written under another name, flushed and renamed: a save that is cut off leaves what
  was there, and of two savers each leaves a whole one. A saver whose archive has changed since it
  began adds what the other one has saved.
- A restore unpacks beside the folder, and moves what is complete.
- Times are kept to the nanosecond: ninja compiles again what is newer than its own record of it.
- It is not compressed: kernels are compressed already.
- All archives of a folder together have a size; those that were used longest ago go first.

The Runpod SDK's VolumeCache mirrors the files under their absolute names: each file is replaced
atomically, the set is not, the later one of two savers drops the small files of the other one
(`_pack_small` replaces `small.tar`), and nothing bounds or removes `big/`.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

# Folders with what is valid on another machine of the same key. The rest stays: this machine's GPU
# topology, models, tables of several gigabytes.
ARCHIVED_FOLDERS = (
    "vllm/torch_compile_cache",
    "vllm/flashinfer_autotune_cache",
    "vllm/modelinfos",
    "vllm/startup_plan",
    "sglang/jit",
    "sglang/cute_aot",
    "sglang/torch_compile_cache",
    "sglang/flashinfer",  # what its autotuner has found
    "inductor",
    "triton",
    "flashinfer/.cache/flashinfer",
    "flashinfer_moe",
    "humming/cache",
    "humming/tmp/module",
    "quack",
    "cute_dsl",
    "flash_attention",
    "flex_attention",
    "fmha_sm100",
    "mm_sparse_attn",
    "deep_gemm",
    "tvm_ffi",
    "tilelang",
    "cuda",
    "xdg/cuda-python",
    "xdg/cudnn_frontend",
    "xdg/cudnn_gemm",
    "xdg/cutile-python",
    "xdg/torch_extensions",
    "xdg/torch/kernels",
)
SKIPPED_SUFFIXES = (".lock", ".log", ".tmp", ".partial")
PARTIAL = ".partial"
STAGING = ".staging-"
RECORD = ".archived"  # in the folder: what its archive was like, and what it has
IMAGE_RECORD = ".of-the-image"  # in the folder: files that every worker has
MAX_PARTIAL_FILE_AGE_SECONDS = 3600.0  # an older one belongs to a save that was cut off
MAX_SAVES = 5
EXIT_FAILED = 1

# A file's size in bytes and time of modification in nanoseconds.
Stamp = tuple[int, int]
Files = dict[str, Stamp]
Identity = tuple[int, ...]


class ChangedWhileRead(Exception):
    """A file was written to while it was archived."""


class TooLarge(Exception):
    """A folder's files are more than all archives may have."""


def list_files(folder: Path) -> Files:
    """Return the regular files below the archived folders, by their names relative to `folder`."""
    found: Files = {}
    for archived in ARCHIVED_FOLDERS:
        for parent, _, names in os.walk(folder / archived):
            for name in names:
                path = os.path.join(parent, name)
                if name.endswith(SKIPPED_SUFFIXES) or os.path.islink(path):
                    continue
                with contextlib.suppress(FileNotFoundError):  # a compiler's temporary file
                    found[os.path.relpath(path, folder)] = _stamp(os.stat(path))
    return found


def record_image_files(folder: Path) -> None:
    """Record a folder's files as those of the image, which no archive needs."""
    (folder / IMAGE_RECORD).write_text(json.dumps({"files": list_files(folder)}))


def restore(folder: Path, archive: Path) -> int:
    """Unpack an archive into a folder; return the number of files that are new there.

    A file that is there and not older stays.

    Raises:
        OSError, tarfile.TarError: the archive cannot be read; the folder is as it was.
    """
    restored = 0
    with _staging_folder(folder) as staging:
        with archive.open("rb") as file:
            identity = _identity(os.fstat(file.fileno()))
            _unpack(file, staging)
        archived = list_files(staging)
        for name, stamp in archived.items():
            restored += _move_if_newer(staging / name, folder / name, stamp)
    _, recorded = _read_record(folder)
    _write_record(folder, identity, recorded | archived)
    with contextlib.suppress(OSError):  # of a read-only image, or another worker removes it
        os.utime(archive, ns=(time.time_ns(), archive.stat().st_mtime_ns))  # its last use
    return restored


def save(folder: Path, archive: Path, max_bytes: int) -> int:
    """Write a folder's files into its archive if there are new ones; return how many.

    Raises:
        ChangedWhileRead: a file was being written; the archive is as it was.
        TooLarge: the files are more than `max_bytes`.
        OSError: the archive cannot be written; it is as it was.
    """
    known, recorded = _read_record(folder)
    files = _own_files(folder)
    new = {name for name, stamp in files.items() if recorded.get(name) != stamp}
    if not new:
        return 0
    if _total_bytes(files) > max_bytes:
        raise TooLarge(f"{_total_bytes(files) / 1e9:.1f} GB, CACHE_MAX_GB={max_bytes / 1e9:g}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    _remove_partial_files(archive.parent)
    for _ in range(MAX_SAVES):
        if _write_archive(folder, files, archive, known, max_bytes):
            remove_oldest(archive, max_bytes)
            return len(new)
    return 0  # others save all the time: the next save has what is new


def _own_files(folder: Path) -> Files:
    """Return a folder's files without those of the image."""
    image = _read_files(folder / IMAGE_RECORD)
    return {name: stamp for name, stamp in list_files(folder).items() if image.get(name) != stamp}


def _write_archive(
    folder: Path, files: Files, archive: Path, known: Identity | None, max_bytes: int
) -> bool:
    """Replace an archive, and keep what others have saved; False if it changed meanwhile.

    Args:
        known: the archive that the folder has already.
    """
    before = _identity_of(archive)
    with _staging_folder(folder) as staging, _partial_file(archive) as partial:
        others = {} if before in (None, known) else _files_of_others(archive, files, staging)
        if _total_bytes(files) + _total_bytes(others) > max_bytes:
            others = {}
        pack(partial, {folder: files, staging: others})
        with _locked(archive.parent):
            if _identity_of(archive) != before:
                return False
            os.replace(partial, archive)
            # With files of others the archive is not the same as the folder.
            _write_record(folder, None if others else _identity_of(archive), files)
    return True


def pack(target: Path, folders: Mapping[Path, Files]) -> None:
    """Write files of folders into a tar file, with their exact times, and flush it.

    Raises:
        ChangedWhileRead: a file differs from its stamp, or is gone.
    """
    with target.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for folder, files in folders.items():
                for name, stamp in files.items():
                    _add(tar, folder / name, name, stamp)
        file.flush()
        os.fsync(file.fileno())


def remove_oldest(kept: Path, max_bytes: int) -> None:
    """Remove archives beside `kept` until all fit, the one that was used longest ago first."""
    others = []
    for path in kept.parent.glob("*.tar"):
        with contextlib.suppress(OSError):  # another worker was faster
            status = path.stat()
            others.append((max(status.st_atime_ns, status.st_mtime_ns), status.st_size, path))
    total = sum(size for _, size, _ in others)
    for _, size, path in sorted(others):
        if total <= max_bytes:
            return
        if path != kept:
            path.unlink(missing_ok=True)
            total -= size


def _files_of_others(archive: Path, files: Files, staging: Path) -> Files:
    """Unpack what an archive has and `files` has not; nothing if the archive cannot be read."""
    try:
        with archive.open("rb") as file:
            _unpack(file, staging, skipped=files)
    except (OSError, tarfile.TarError):
        return {}
    return {name: stamp for name, stamp in list_files(staging).items() if name not in files}


def _unpack(file: IO[bytes], staging: Path, skipped: Collection[str] = ()) -> None:
    with tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            if not member.isfile() or member.name in skipped:
                continue
            tar.extract(member, staging, filter="data")
            seconds, _, fraction = member.pax_headers.get("mtime", "0").partition(".")
            nanoseconds = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
            os.utime(staging / member.name, ns=(nanoseconds, nanoseconds))


def _add(tar: tarfile.TarFile, path: Path, name: str, stamp: Stamp) -> None:
    try:
        with path.open("rb") as source:
            info = tar.gettarinfo(arcname=name, fileobj=source)
            seconds, nanoseconds = divmod(stamp[1], 10**9)
            info.mtime = seconds
            info.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09d}"}
            info.type, info.linkname = tarfile.REGTYPE, ""  # also of a hard link
            info.size = stamp[0]
            tar.addfile(info, source)
            if _stamp(os.fstat(source.fileno())) != stamp:
                raise ChangedWhileRead(name)
    except FileNotFoundError as error:
        raise ChangedWhileRead(name) from error


def _move_if_newer(source: Path, target: Path, stamp: Stamp) -> bool:
    with contextlib.suppress(FileNotFoundError):
        if target.stat().st_mtime_ns >= stamp[1]:
            return False
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError:  # the target is on another file system
        partial = target.with_name(target.name + PARTIAL)
        shutil.copy2(source, partial)
        os.replace(partial, target)
    return True


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns


def _total_bytes(files: Files) -> int:
    return sum(size for size, _ in files.values())


def _identity(status: os.stat_result) -> Identity:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _identity_of(archive: Path) -> Identity | None:
    try:
        return _identity(archive.stat())
    except OSError:
        return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, if its file system has locks; without, a moment stays unguarded."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _staging_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder on the folder's file system."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in filter(_is_old, folder.glob(f"{STAGING}*")):
        shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=STAGING) as staging:
        yield Path(staging)


@contextlib.contextmanager
def _partial_file(archive: Path) -> Iterator[Path]:
    """Yield the name of a new file beside the archive; what is left of it is removed."""
    handle, name = tempfile.mkstemp(PARTIAL, archive.name + ".", archive.parent)
    os.close(handle)
    try:
        os.chmod(name, 0o644)  # another worker may have another user
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _remove_partial_files(folder: Path) -> None:
    for path in filter(_is_old, folder.glob(f"*{PARTIAL}")):
        path.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - MAX_PARTIAL_FILE_AGE_SECONDS
    except OSError:  # another worker was faster
        return False


def _read_record(folder: Path) -> tuple[Identity | None, Files]:
    """Return the identity of the archive whose files a folder has, and the files that are saved."""
    try:
        identity = json.loads((folder / RECORD).read_text())["archive"]
    except (OSError, ValueError, KeyError):
        return None, {}
    return identity and tuple(identity), _read_files(folder / RECORD)


def _read_files(record: Path) -> Files:
    try:
        files = json.loads(record.read_text())["files"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: (size, time_ns) for name, (size, time_ns) in files.items()}


def _write_record(folder: Path, identity: Identity | None, files: Files) -> None:
    (folder / RECORD).write_text(json.dumps({"archive": identity, "files": files}))


def main(arguments: Sequence[str]) -> int:
    """Restore and print the number of files from each archive as JSON; save; or pack."""
    action, folder, *rest = arguments
    try:
        if action == "restore":
            (Path(folder) / RECORD).unlink(missing_ok=True)  # of another volume
            print(json.dumps({path: _try_to_restore(Path(folder), Path(path)) for path in rest}))
        elif action == "save":
            save(Path(folder), Path(rest[0]), int(rest[1]))
        else:
            for archive in pack_all(Path(folder), Path(rest[0])):
                print(archive, flush=True)
    except ChangedWhileRead:
        return EXIT_FAILED  # the next save has it
    except (OSError, TooLarge) as error:
        print(f"compile cache: not saved: {error}", file=sys.stderr, flush=True)
        return EXIT_FAILED
    return 0


def pack_all(root: Path, target: Path) -> Iterator[Path]:
    """Write an archive for each key below a root, and yield its path."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if files := _own_files(folder):
            archive = target / f"{folder.name}.tar"
            with _partial_file(archive) as partial:
                pack(partial, {folder: files})
                os.replace(partial, archive)
            yield archive


def _try_to_restore(folder: Path, archive: Path) -> int:
    try:
        return restore(folder, archive)
    except FileNotFoundError:
        return 0
    except (OSError, tarfile.TarError) as error:
        print(f"compile cache: {archive} cannot be read: {error!r}", file=sys.stderr, flush=True)
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
