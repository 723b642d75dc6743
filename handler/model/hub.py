"""What is asked of the hub: a repository's files at a commit, and their content.

The worker's fallback and `builder/fetch` fetch with it; `handler/model/sources.py` knows where
else to look. Which files are worth fetching stands in `choice.py`. The content comes through a
process of its own, `download.py`, for only a process can be ended in the middle of a file.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from handler.errors import InvalidSetting, ModelUnavailable
from handler.model.hub_cache import folder_name
from handler.model.hub_errors import explained, patiently
from handler.model.reference import HubReference

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
PROGRESS_SECONDS = 10.0
STOP_SECONDS = 5.0
HALF_SECONDS = 3 * 3600.0  # nobody writes any more to a file that is as old as this
GB = 1e9
NOTICED_BYTES = 1_000_000


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository at a commit.

    Attributes:
        path: in the repository.
        bytes: its size.
        sha256: of its content, None where git itself keeps the file.
        git_oid: git's own checksum of it, None where it is kept outside of git.
    """

    path: str
    bytes: int
    sha256: str | None
    git_oid: str | None


@dataclass(frozen=True)
class RepoListing:
    """A repository at a commit.

    Attributes:
        commit: its full hash.
        files: all of them.
        licence: the identifier on its card, None where it has none.
    """

    commit: str
    files: tuple[RemoteFile, ...]
    licence: str | None


def listing(reference: HubReference) -> RepoListing:
    """Ask the hub for the commit that a revision is, and for its files.

    Raises:
        ModelUnavailable, InvalidSetting: the hub's refusal in one sentence.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=reference.plain_token())
    with explained(reference):
        info = patiently(
            lambda: api.model_info(
                reference.name, revision=reference.revision or "main", files_metadata=True
            )
        )
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
    return RepoListing(str(info.sha), files, str(licence) if licence else None)


def download(
    reference: HubReference,
    commit: str,
    files: Collection[RemoteFile],
    *,
    cache: Path | None = None,
    folder: Path | None = None,
) -> Path:
    """Download files into a hub cache, or as they are into a folder; return where they lie.

    A connection that breaks is resumed, a hub that fails is asked again; files that are whole are
    not fetched twice. Several processes may do this at once in one cache: each writes files of its
    own and renames them when they are whole. An exception, of a signal's handler as well, ends the
    download at once.

    Raises:
        ModelUnavailable, InvalidSetting: the hub's refusal, or too little space, in one sentence.
    """
    from huggingface_hub import constants

    place = folder or (cache or Path(constants.HF_HUB_CACHE)) / folder_name(reference.name)
    total = sum(file.bytes for file in files)
    with explained(reference):
        place.mkdir(parents=True, exist_ok=True)
        _remove_halves(place)
        _check_space(reference.name, place, files)
    order = {
        "name": reference.name,
        "revision": reference.revision,
        "setting": reference.setting,
        "token": reference.plain_token(),
        "commit": commit,
        "files": [file.path for file in files],
        "place": str(place),
        "cache": str(cache) if cache else None,
        "folder": str(folder) if folder else None,
    }
    with _progress(reference.name, place, total):
        return _run(order)


def bytes_in(folder: Path) -> int:
    """Return what the folder's files take on the disk; files come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if not path.is_symlink() and path.is_file():
                total += path.stat().st_blocks * 512
        except OSError:
            continue
    return total


def _run(order: Mapping[str, object]) -> Path:
    """Have a process do it: its answers are JSON lines, and it ends when its input does."""
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "handler.model.hub_download"],  # no handler.py of the folder's
        env={**os.environ, "PYTHONPATH": search},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for us, who tell it
    )
    with process:
        if process.stdin is None or process.stdout is None:
            raise ModelUnavailable(f"{order['name']}: no process could be started to fetch it.")
        try:
            with suppress(BrokenPipeError):  # its end is noticed below
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                said = json.loads(line)
                if "path" in said:
                    return Path(said["path"])
                if "unavailable" in said:
                    raise ModelUnavailable(said["unavailable"])
                if "setting" in said:
                    raise InvalidSetting(said["setting"])
                log.warning("%s", said["warning"])
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    killed = " (killed: too little memory?)" if process.returncode == -signal.SIGKILL else ""
    raise ModelUnavailable(
        f"{order['name']}: fetching it ended with code {process.returncode}{killed}."
    )


def _remove_halves(place: Path) -> None:
    """Remove what a worker left on the volume that was killed while it wrote."""
    for half in place.glob("blobs/*.incomplete"):
        with suppress(OSError):
            if time.time() - half.stat().st_mtime > HALF_SECONDS:
                half.unlink()


def _check_space(name: str, place: Path, files: Collection[RemoteFile]) -> None:
    def is_there(file: RemoteFile) -> bool:
        blob = place / "blobs" / (file.sha256 or file.git_oid or "")
        return blob.is_file() or (place / file.path).is_file()

    needed_bytes = sum(file.bytes for file in files if not is_there(file))
    missing_bytes = needed_bytes - shutil.disk_usage(place).free
    if missing_bytes > 0:
        raise ModelUnavailable(
            f"{name} needs {needed_bytes / GB:.1f} GB more on the disk of {place}: "
            f"{missing_bytes / GB:.1f} GB too few are free."
        )


@contextmanager
def _progress(name: str, place: Path, total_bytes: int) -> Iterator[None]:
    """Log every now and then how much is there, and at the end how fast it came."""
    before, started = bytes_in(place), time.monotonic()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PROGRESS_SECONDS):
            done, seconds = bytes_in(place) - before, time.monotonic() - started
            log.info(
                "%s: %.0f of %.0f MB, %.0f MB/s",
                *(name, done / 1e6, total_bytes / 1e6, done / seconds / 1e6),
            )

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    seconds, done = time.monotonic() - started, bytes_in(place) - before
    if done > NOTICED_BYTES:
        log.info("%s: %.1f MB in %.1f s", name, done / 1e6, seconds)
