"""What is asked of the hub: a repository's files at a commit, and their content.

The worker's fallback and `builder/fetch.py` fetch with it; `handler/model.py` knows where else to
look. Which files are worth fetching stands in `choice.py`.
"""

import logging
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from pydantic import SecretStr

from handler.errors import ModelUnavailable
from handler.hub.cache import folder_name
from handler.hub.failures import explained, patiently

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0
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
class Listing:
    """A repository at a commit.

    Attributes:
        commit: its full hash.
        files: all of them.
        licence: the identifier on its card, None where it has none.
    """

    commit: str
    files: tuple[RemoteFile, ...]
    licence: str | None


def listing(name: str, revision: str | None, token: SecretStr | None) -> Listing:
    """Ask the hub for the commit that a revision is, and for its files.

    Raises:
        ModelUnavailable, BadSetting: the hub's refusal in one sentence.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=_plain(token))
    with explained(name, revision):
        info = patiently(lambda: api.model_info(name, revision=revision, files_metadata=True))
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
    return Listing(str(info.sha), files, str(licence) if licence else None)


def download(
    name: str,
    revision: str,
    files: Collection[RemoteFile],
    token: SecretStr | None,
    *,
    cache: Path | None = None,
    folder: Path | None = None,
) -> Path:
    """Download files into a hub cache, or as they are into a folder; return where they lie.

    A connection that breaks is resumed, a hub that fails is asked again; files that are whole are
    not fetched twice. Several processes may do this at once in one cache: each writes files of its
    own and renames them when they are whole.

    Raises:
        ModelUnavailable, BadSetting: the hub's refusal, or too little space, in one sentence.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    place = folder or (cache or Path(constants.HF_HUB_CACHE)) / folder_name(name)
    total = sum(file.bytes for file in files)
    with explained(name, revision):
        place.mkdir(parents=True, exist_ok=True)
    _check_space(name, place, total)

    def snapshot() -> Path:
        path = snapshot_download(
            name,
            revision=revision,
            token=_plain(token),
            cache_dir=cache,
            local_dir=folder,
            allow_patterns=[escape(file.path) for file in files],
        )
        # When the hub fails, huggingface-hub is content with what is there.
        if absent := [file.path for file in files if not Path(path, file.path).is_file()]:
            raise OSError(f"{name}: {absent[0]} did not arrive")
        return Path(path)

    with explained(name, revision), _progress(name, place, total):
        return patiently(snapshot, lambda: _bytes_in(place))


def _plain(token: SecretStr | None) -> str | None:
    return token.get_secret_value() if token else None


def _check_space(name: str, place: Path, needed_bytes: int) -> None:
    missing_bytes = needed_bytes - _bytes_in(place) - shutil.disk_usage(place).free
    if missing_bytes > 0:
        raise ModelUnavailable(
            f"{name} needs {needed_bytes / GB:.1f} GB on the disk of {place}: "
            f"{missing_bytes / GB:.1f} GB too few are free."
        )


def _bytes_in(folder: Path) -> int:
    """Return what the folder's files take on the disk; files come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if not path.is_symlink() and path.is_file():
                total += path.stat().st_blocks * 512
        except OSError:
            continue
    return total


@contextmanager
def _progress(name: str, place: Path, total_bytes: int) -> Iterator[None]:
    """Log every now and then how much is there, and at the end how fast it came."""
    before, started = _bytes_in(place), time.monotonic()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PROGRESS_SECONDS):
            done, seconds = _bytes_in(place) - before, time.monotonic() - started
            log.info(
                "%s: %.1f of %.1f GB, %.0f MB/s",
                *(name, done / GB, total_bytes / GB, done / seconds / 1e6),
            )

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    seconds, done = time.monotonic() - started, _bytes_in(place) - before
    if done > NOTICED_BYTES:
        log.info("%s: %.1f MB in %.1f s", name, done / 1e6, seconds)
