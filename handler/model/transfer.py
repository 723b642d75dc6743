"""One transfer of huggingface-hub's `snapshot_download`, which can be cancelled and cannot hang.

huggingface-hub ends a plain HTTP read that gets no byte for HF_HUB_DOWNLOAD_TIMEOUT seconds, but
not a transfer by Xet, nor its requests for lists of files.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from handler.model.hub_errors import TransferStalled
from handler.model.hub_patches import PARTIAL_SUFFIX, abort_xet, rate_limits_raised
from handler.model.reference import HubReference

CANCEL_TIMEOUT_SECONDS = 1.0  # after that a connection hangs; its thread ends at the next chunk
# huggingface-hub reports every 10 MB of a file: eight files at once need 0.9 MB/s together.
MAX_SILENCE_SECONDS = 90.0


class Transfer:
    """A download in a thread, because `snapshot_download` cannot be cancelled during a file.

    Args:
        reference: the repository.
        commit: its full hash.
        paths: the files to download.
        cache: a hub cache, or None with a folder.
        folder: takes the files without a cache's layout.
        max_silence_seconds: the time without a byte after which it has stalled.
    """

    def __init__(
        self,
        reference: HubReference,
        commit: str,
        paths: Collection[str],
        *,
        cache: Path | None,
        folder: Path | None,
        max_silence_seconds: float = MAX_SILENCE_SECONDS,
    ) -> None:
        self._reference = reference
        self._commit = commit
        self._paths = paths
        self._cache = cache
        self._folder = folder
        self._max_silence_seconds = max_silence_seconds
        self._cancelled = threading.Event()
        self._last_byte = time.monotonic()
        self._result: Future[str] = Future()

    def run(self) -> Path:
        """Download and return the folder.

        Raises:
            TransferStalled: no data has arrived for too long.
            Exception: huggingface-hub's.
        """
        thread = threading.Thread(target=self._download, name="download", daemon=True)
        try:
            thread.start()
            return Path(self._wait())
        finally:
            self._cancelled.set()
            try:
                if thread.is_alive():
                    abort_xet()
                    thread.join(CANCEL_TIMEOUT_SECONDS)
            finally:
                if thread.is_alive():
                    _remove_open_partial_files()

    def _wait(self) -> str:
        while True:
            silence = time.monotonic() - self._last_byte
            if silence >= self._max_silence_seconds and not self._result.done():
                raise TransferStalled(f"no data for {self._max_silence_seconds:.0f} s")
            try:
                return self._result.result(max(0.0, self._max_silence_seconds - silence))
            except TimeoutError:
                if self._result.done():  # the transfer's own error
                    raise

    def _download(self) -> None:
        try:
            self._result.set_result(self._downloaded())
        except BaseException as error:
            self._result.set_exception(error)

    def _downloaded(self) -> str:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

        transfer = self

        class Progress(tqdm):
            """A hidden progress bar; huggingface-hub's threads call `update` for every chunk."""

            monitor_interval = 0  # no thread, which would still work when vLLM forks its core

            def __init__(self, *args: object, **kwargs: object) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

            def update(self, n: float | None = 1) -> None:
                if transfer._cancelled.is_set():
                    raise CancelledError
                if n:
                    transfer._last_byte = time.monotonic()

        # The library's warnings show signed URLs.
        with _library_log_level(logging.ERROR), rate_limits_raised():
            path = snapshot_download(
                self._reference.name,
                revision=self._commit,
                token=self._reference.plain_token(),
                cache_dir=self._cache,
                local_dir=self._folder,
                allow_patterns=[escape(path) for path in self._paths],
                tqdm_class=Progress,
            )
        # When the hub fails, huggingface-hub returns with the files that exist.
        if missing := [each for each in self._paths if not Path(path, each).is_file()]:
            raise OSError(f"{self._reference.name}: {missing[0]} did not arrive")
        return path


@contextmanager
def _library_log_level(level: int) -> Iterator[None]:
    logger = logging.getLogger("huggingface_hub")
    previous = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(previous)


def _remove_open_partial_files() -> None:
    """Remove the partial files that this process has open, and no other worker's."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            path = descriptor.readlink()
            if path.suffix == PARTIAL_SUFFIX:
                path.unlink()
