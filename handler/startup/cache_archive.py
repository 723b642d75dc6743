"""Archives of compiled code: tar files that are written once, in a folder for each key.

    python -m handler.startup.cache_archive restore FOLDER SOURCE…
    python -m handler.startup.cache_archive save FOLDER ARCHIVES MAX_BYTES
    python -m handler.startup.cache_archive pack ROOT TARGET

- A save writes what no archive of the key has into a new one, under another name, flushes and
  renames it. So a save that is cut off leaves nothing, and savers that overlap do not meet.
- A restore unpacks all archives of a key, the oldest first, each beside the folder, and moves what
  is complete.
- Times are kept to the nanosecond: ninja compiles again what is newer than its own record of it.
- They are not compressed: kernels are compressed already.
- A worker with many archives of its key puts all files into one, and removes those that it has.
- All archives of an endpoint together have a size; those that were used longest ago go first.

The Runpod SDK's VolumeCache mirrors the files under their absolute names: each file is replaced
atomically, the set is not, the later one of two savers drops the small files of the other one
(`_pack_small` replaces `small.tar`), and nothing bounds or removes `big/`.
"""

import contextlib
import json
import os
import secrets
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

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
    "xdg/b12x/compile",
    "xdg/b12x/loader",
    "xdg/b12x/roce",
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
RECORD = ".archived"  # in the folder: its archives, and the files that they have
IMAGE_RECORD = ".of-the-image"  # in the folder: files that every worker has
MAX_PARTIAL_FILE_AGE_SECONDS = 3600.0  # an older one belongs to a save that was cut off
MAX_ARCHIVES = 8  # of a key that a worker has; with more it puts all files into one
EXIT_FAILED = 1

# A file's time of modification in nanoseconds and its size in bytes.
Stamp = tuple[int, int]
Files = dict[str, Stamp]


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
    _write_record(folder / IMAGE_RECORD, [], list_files(folder))


def restore(folder: Path, source: Path) -> int:
    """Unpack an archive, or all archives of a key, into a folder; return the number of new files.

    A file that is there and not older stays. An archive that cannot be read is skipped.

    Args:
        source: the archive of an image, or the folder of a key.
    """
    archives = sorted(source.glob("*.tar")) if source.is_dir() else [source]
    return sum(_restore_archive(folder, archive) for archive in archives)


def _restore_archive(folder: Path, archive: Path) -> int:
    try:
        with _staging_folder(folder) as staging:
            _unpack(archive, staging)
            archived = list_files(staging)
            restored = sum(
                _move_if_newer(staging / name, folder / name, stamp)
                for name, stamp in archived.items()
            )
    except FileNotFoundError:  # there is none, or another worker has removed it
        return 0
    except (OSError, tarfile.TarError) as error:
        print(f"compile cache: {archive} cannot be read: {error!r}", file=sys.stderr, flush=True)
        return 0
    earlier, recorded = _read_record(folder / RECORD)
    newest = {name: max(stamp, recorded.get(name, stamp)) for name, stamp in archived.items()}
    _write_record(folder / RECORD, [*earlier, archive], recorded | newest)
    with contextlib.suppress(OSError):  # of a read-only image, or another worker removes it
        os.utime(archive, ns=(time.time_ns(), archive.stat().st_mtime_ns))  # its last use
    return restored


def save(folder: Path, archives: Path, max_bytes: int) -> int:
    """Write the files that no archive of the key has into a new one; return how many.

    If the folder has many archives, all its files are written, and those archives removed.

    Args:
        archives: the folder of the key, beside those of the endpoint's other keys.
        max_bytes: the bound for the archives of all keys.

    Raises:
        ChangedWhileRead: a file was being written; nothing is saved.
        TooLarge: the files are more than `max_bytes`.
        OSError: the archive cannot be written.
    """
    earlier, recorded = _read_record(folder / RECORD)
    files = _own_files(folder)
    new = {name: stamp for name, stamp in files.items() if recorded.get(name) != stamp}
    replaced = [path for path in earlier if path.parent == archives]
    if len(replaced) <= MAX_ARCHIVES:
        files, replaced = new, []
    if not files:
        return 0
    size = sum(size for _, size in files.values())
    if size > max_bytes:
        raise TooLarge(f"{size / 1e9:.1f} GB, CACHE_MAX_GB={max_bytes / 1e9:g}")
    archives.mkdir(parents=True, exist_ok=True)
    # The time first, so that the names are in the order of the saves.
    archive = archives / f"{time.time_ns()}-{os.getpid()}-{secrets.token_hex(4)}.tar"
    pack(archive, folder, files)
    for path in replaced:
        path.unlink(missing_ok=True)
    kept = [path for path in earlier if path not in replaced]
    _write_record(folder / RECORD, [*kept, archive], recorded | files)
    _remove_oldest(archives.parent, archive, max_bytes)
    return len(new)


def pack(archive: Path, folder: Path, files: Files) -> None:
    """Write files of a folder into a new archive, with their exact times.

    Raises:
        ChangedWhileRead: a file differs from its stamp, or is gone.
        OSError: the archive cannot be written.
    """
    partial = archive.with_name(archive.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, stamp in files.items():
                    _add(tar, folder / name, name, stamp)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)


def _remove_oldest(endpoint: Path, kept: Path, max_bytes: int) -> None:
    """Remove archives until all fit, the one that was used longest ago first, never `kept`."""
    for path in filter(_is_old, endpoint.glob(f"*/*{PARTIAL}")):
        path.unlink(missing_ok=True)
    found = []
    for path in endpoint.glob("*/*.tar"):
        with contextlib.suppress(OSError):  # another worker was faster
            status = path.stat()
            found.append((max(status.st_atime_ns, status.st_mtime_ns), status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total > max_bytes and path != kept:
            path.unlink(missing_ok=True)
            total -= size


def _unpack(archive: Path, staging: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile():
                continue
            tar.extract(member, staging, filter="data")
            seconds, _, fraction = member.pax_headers.get("mtime", "0").partition(".")
            nanoseconds = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
            os.utime(staging / member.name, ns=(nanoseconds, nanoseconds))


def _add(tar: tarfile.TarFile, path: Path, name: str, stamp: Stamp) -> None:
    try:
        with path.open("rb") as source:
            info = tar.gettarinfo(arcname=name, fileobj=source)
            seconds, nanoseconds = divmod(stamp[0], 10**9)
            info.mtime = seconds
            info.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09d}"}
            info.type, info.linkname = tarfile.REGTYPE, ""  # also of a hard link
            info.size = stamp[1]
            tar.addfile(info, source)
            if _stamp(os.fstat(source.fileno())) != stamp:
                raise ChangedWhileRead(name)
    except FileNotFoundError as error:
        raise ChangedWhileRead(name) from error


def _move_if_newer(source: Path, target: Path, stamp: Stamp) -> bool:
    with contextlib.suppress(FileNotFoundError):
        if target.stat().st_mtime_ns >= stamp[0]:
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
    return status.st_mtime_ns, status.st_size


@contextlib.contextmanager
def _staging_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder on the folder's file system."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in filter(_is_old, folder.glob(f"{STAGING}*")):
        shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=STAGING) as staging:
        yield Path(staging)


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - MAX_PARTIAL_FILE_AGE_SECONDS
    except OSError:  # another worker was faster
        return False


def _own_files(folder: Path) -> Files:
    """Return a folder's files without those of the image."""
    _, image = _read_record(folder / IMAGE_RECORD)
    return {name: stamp for name, stamp in list_files(folder).items() if image.get(name) != stamp}


def _read_record(path: Path) -> tuple[list[Path], Files]:
    """Return the archives, and the files that they have."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return [], {}
    files = {name: (time_ns, size) for name, (time_ns, size) in record["files"].items()}
    return [Path(archive) for archive in record["archives"]], files


def _write_record(path: Path, archives: Sequence[Path], files: Files) -> None:
    path.write_text(json.dumps({"archives": [*map(str, archives)], "files": files}))


def main(arguments: Sequence[str]) -> int:
    """Restore and print the number of files from each source as JSON; save; or pack."""
    action, folder, *rest = arguments
    try:
        if action == "restore":
            (Path(folder) / RECORD).unlink(missing_ok=True)  # of another volume
            print(json.dumps({source: restore(Path(folder), Path(source)) for source in rest}))
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
    """Write an archive for each key below a root, without the image's own files."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if files := _own_files(folder):
            archive = target / f"{folder.name}.tar"
            pack(archive, folder, files)
            yield archive


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
