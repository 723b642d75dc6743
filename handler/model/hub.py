"""The model hub: a repository's files at a commit, and their download.

The worker and the builder both use it. `hub_files.py` selects the files, `hub_errors.py` retries
requests and explains errors.
"""

import logging
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from handler.errors import ModelUnavailable
from handler.model.hub_cache import repository_folder, same_repository
from handler.model.hub_errors import (
    RETRY_WAITS_SECONDS,
    TransferStalled,
    check_endpoint,
    hub_errors_explained,
    retry,
)
from handler.model.hub_names import check_access
from handler.model.hub_patches import PARTIAL_SUFFIX, keep_to_own_requests, turn_xet_off
from handler.model.reference import HubReference
from handler.model.transfer import MAX_SILENCE_SECONDS, Transfer

log = logging.getLogger(__name__)

PROGRESS_INTERVAL_SECONDS = 10.0
# Of the first request, and of those after it: a hub answers in a fraction of a second, but the list
# of a repository with thousands of files takes longer.
LIST_TIMEOUTS_SECONDS = (2.0, 10.0)
MAX_PARTIAL_FILE_AGE_SECONDS = 3 * 3600.0  # an older one belongs to a worker that was killed
MIN_LOGGED_MEGABYTES = 1


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository at a commit.

    Attributes:
        path: in the repository.
        bytes: its size.
        sha256: of its content, None for a file that git itself stores.
        git_oid: git's checksum, None for a file that is stored outside of git.
    """

    path: str
    bytes: int
    sha256: str | None
    git_oid: str | None


@dataclass(frozen=True)
class RepoListing:
    """All files of a repository at a commit.

    Attributes:
        repository: its name as the hub writes it; case does not matter to the hub.
        commit: its full hash.
        files: all of them.
        licence: the identifier on the model card, None without one.
    """

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str | None


def list_repository(
    reference: HubReference, retry_waits_seconds: Sequence[float] = RETRY_WAITS_SECONDS
) -> RepoListing:
    """Resolve a revision to its commit and list the files.

    This is one request, a second one for a gated repository, and one or two for names like one that
    the hub does not have: what is wrong with a name is known before a byte is downloaded. A hub
    that does not answer is asked twice.

    Raises:
        ModelUnavailable, InvalidSetting: the hub's reason in one sentence.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=reference.plain_token())
    check_endpoint()
    keep_to_own_requests()
    timeouts_seconds = iter(LIST_TIMEOUTS_SECONDS)
    with hub_errors_explained(reference):
        try:
            info = retry(
                lambda: api.model_info(
                    reference.name,
                    revision=reference.revision or "main",
                    files_metadata=True,
                    timeout=next(timeouts_seconds, LIST_TIMEOUTS_SECONDS[-1]),
                ),
                waits_seconds=retry_waits_seconds,
            )
        except KeyError as error:  # JSON of another server
            raise ValueError(f"the answer has no {error}") from error
        if info.gated:  # everybody sees the metadata of such a repository
            check_access(reference)
        files = tuple(
            RemoteFile(
                sibling.rfilename,
                sibling.size or 0,
                sibling.lfs.sha256 if sibling.lfs else None,
                None if sibling.lfs else sibling.blob_id,
            )
            for sibling in info.siblings or ()
        )
    licence = info.card_data.get("license") if info.card_data else None
    # The hub also knows a renamed repository by its old name; the cache then uses the old name.
    name = info.id
    if not same_repository(name, reference.name):
        log.warning(
            "%s was renamed on the hub: set %s=%s", reference.name, reference.setting, info.id
        )
        name = reference.name
    return RepoListing(name, str(info.sha), files, str(licence) if licence else None)


def import_client() -> None:
    """Import huggingface-hub, with all that `list_repository` and `download_files` need of it.

    Its modules import each other in circles, which two threads must not do at the same time.
    """
    from huggingface_hub import HfApi, snapshot_download  # noqa: F401


def default_cache() -> str:
    """Return huggingface-hub's own cache in the container."""
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def download_files(
    reference: HubReference,
    commit: str,
    files: Collection[RemoteFile],
    *,
    cache: Path | None = None,
    folder: Path | None = None,
    retry_waits_seconds: Sequence[float] = RETRY_WAITS_SECONDS,
    max_silence_seconds: float = MAX_SILENCE_SECONDS,
) -> Path:
    """Download files into a hub cache, or without its layout into `folder`; return their folder.

    A broken connection is resumed, a failing hub is retried, complete files are kept. A transfer
    that gets no byte for `max_silence_seconds` is tried once more, by plain HTTP. Several
    processes may download into one cache at once: each writes files of its own and renames them
    when they are complete. An exception, also one raised by a signal handler, ends the download
    and removes the partial files; end the process with `os._exit` then, because a connection
    that hangs would block the interpreter's own exit.

    Raises:
        ModelUnavailable, InvalidSetting: the hub's reason, or a full disk, in one sentence.
    """
    from huggingface_hub import constants

    def transfer() -> Path:
        try:
            return Transfer(
                reference,
                commit,
                [file.path for file in files],
                cache=cache,
                folder=folder,
                max_silence_seconds=max_silence_seconds,
            ).run()
        except TransferStalled:
            largest = max(file.bytes for file in files)
            if largest <= constants.MAX_HTTP_DOWNLOAD_SIZE and turn_xet_off():
                log.warning("%s: the transfer has stalled, plain HTTP is next", reference.name)
            raise

    target = folder or (cache or Path(constants.HF_HUB_CACHE)) / repository_folder(reference.name)
    with hub_errors_explained(reference):
        target.mkdir(parents=True, exist_ok=True)
        _remove_abandoned_files(target)
        _check_free_space(reference.name, target, files)
        with _logged_progress(reference.name, target, sum(file.bytes for file in files)):
            return retry(
                transfer,
                progress=lambda: disk_usage_bytes(target),
                waits_seconds=retry_waits_seconds,
            )


def disk_usage_bytes(folder: Path) -> int:
    """Return the disk space that a folder's files take, while files may come and go."""
    total = 0
    with suppress(OSError):  # a folder that is listed may go
        for path in folder.rglob("*"):
            with suppress(OSError):
                if not path.is_symlink() and path.is_file():
                    total += path.stat().st_blocks * 512
    return total


def _remove_abandoned_files(target: Path) -> None:
    """Remove partial files of workers that were killed."""
    for path in target.glob(f"blobs/*{PARTIAL_SUFFIX}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > MAX_PARTIAL_FILE_AGE_SECONDS:
                path.unlink()


def _check_free_space(name: str, target: Path, files: Collection[RemoteFile]) -> None:
    def is_there(file: RemoteFile) -> bool:
        blob = target / "blobs" / (file.sha256 or file.git_oid or "")
        return blob.is_file() or (target / file.path).is_file()

    needed_bytes = sum(file.bytes for file in files if not is_there(file))
    disk = shutil.disk_usage(target)
    missing_bytes = needed_bytes - disk.free
    if missing_bytes > 0:
        raise ModelUnavailable(
            f"{name} needs {needed_bytes / 1e9:.1f} GB more on the disk of {target}: "
            f"{missing_bytes / 1e9:.1f} GB too few are free.",
            lasting=needed_bytes > disk.total,  # else something on this host fills it
        )


@contextmanager
def _logged_progress(name: str, target: Path, total_bytes: int) -> Iterator[None]:
    """Log the progress at intervals, and the duration at the end."""
    before, started = disk_usage_bytes(target), time.monotonic()
    total, ended = total_bytes / 1e6, threading.Event()

    def progress() -> tuple[float, float]:
        return (disk_usage_bytes(target) - before) / 1e6, time.monotonic() - started

    def report() -> None:
        while not ended.wait(PROGRESS_INTERVAL_SECONDS):
            done, seconds = progress()
            log.info("%s: %.0f of %.0f MB, %.0f MB/s", name, done, total, done / seconds)

    reporter = threading.Thread(target=report, name="progress", daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()
    done, seconds = progress()
    if done > MIN_LOGGED_MEGABYTES:
        log.info("%s: %.1f MB in %.1f s", name, done, seconds)
