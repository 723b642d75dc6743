"""Verification of downloaded files by the hub's sizes and checksums."""

import logging
from collections.abc import Sequence
from pathlib import Path

from builder.errors import DamagedFile
from builder.fetch.output_folder import file_checksums
from handler.model import hub
from handler.model.manifest import ManifestFile
from handler.model.reference import HubReference

log = logging.getLogger("fetch")

MAX_DOWNLOADS = 2  # of a file whose checksum does not match


def verified_files(
    folder: Path, reference: HubReference, commit: str, files: Sequence[hub.RemoteFile]
) -> list[ManifestFile]:
    """Compare downloaded files with the hub's; one that differs is downloaded once more.

    Raises:
        DamagedFile: it differs again.
    """
    return [_verified(folder, reference, commit, file) for file in files]


def _verified(
    folder: Path, reference: HubReference, commit: str, file: hub.RemoteFile
) -> ManifestFile:
    path = folder / file.path
    for attempt in range(MAX_DOWNLOADS):
        size, sha256, git_oid = file_checksums(path, with_git=file.git_oid is not None)
        if size == file.bytes and file.sha256 in (None, sha256) and file.git_oid in (None, git_oid):
            return ManifestFile(path=file.path, bytes=size, sha256=sha256)
        log.warning("%s does not match the hub's checksum", file.path)
        if attempt + 1 < MAX_DOWNLOADS:
            path.unlink()
            hub.download_files(reference, commit, [file], folder=folder)
    raise DamagedFile(
        f"{reference.name}/{file.path} is damaged: the hub has {file.bytes} bytes with "
        f"checksum {file.sha256 or file.git_oid}, got {size} bytes with "
        f"{sha256 if file.sha256 else git_oid}."
    )
