"""Download a repository at one commit into a folder, verify every file, write the manifest."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from builder.errors import CheckpointRefused, DamagedFile
from builder.fetch.output_folder import (
    atomic_folder,
    exclusive_lock,
    existing_manifest,
    file_checksums,
    folder_in_use,
    is_intact,
    write_manifest,
)
from builder.fetch.request import FetchRequest
from builder.fetch.selection import PICKLE_INDEX, require_quantization, select_files
from handler.errors import ModelUnavailable
from handler.model import hub
from handler.model.checkpoint import INDEX, quantization_of, shards
from handler.model.manifest import MANIFEST_NAME, ManifestFile

log = logging.getLogger("fetch")

# Downloaded first: they decide which other files are fetched, and whether any are.
CONFIG_FILES = ("config.json", "hf_quant_config.json", INDEX, PICKLE_INDEX)
MAX_DOWNLOADS = 2  # of a file whose checksum does not match


def fetch_repository(request: FetchRequest, folder: Path) -> Path:
    """Return the folder with the repository's files, downloaded unless it is there at the commit.

    Raises:
        CheckpointRefused: it is not what was requested, or the folder holds something else.
        DamagedFile: a file does not match the hub's checksum.
        ModelUnavailable, InvalidSetting: the hub refuses, or the disk is too small.
    """
    target = folder.resolve()
    listing = hub.list_repository(request.reference())
    with exclusive_lock(target.with_name(f".{target.name}.lock")):
        if _is_fetched(request, listing.commit, target):
            log.info("%s is at commit %s, nothing to do", folder, listing.commit)
            return folder
        log.info("%s %s is commit %s", request.repository, request.revision, listing.commit)
        with atomic_folder(target) as part:
            _fill(part, request, listing)
    return folder


def _is_fetched(request: FetchRequest, commit: str, folder: Path) -> bool:
    there = existing_manifest(folder)
    if there is None:
        return False
    if (there.repository, there.kind) != (request.repository, request.kind):
        raise folder_in_use(folder, f"holds {there.repository} as a {there.kind}")
    if (there.commit, there.patterns) != (commit, request.patterns):
        return False
    if not is_intact(folder, there):
        return False
    if request.kind == "model":
        require_quantization(request, there.quantization)
    return True


def _fill(part: Path, request: FetchRequest, listing: hub.RepoListing) -> None:
    by_path = {file.path: file for file in listing.files}
    config_files = [name for name in CONFIG_FILES if name in by_path]
    _download(part, request, listing.commit, [by_path[name] for name in config_files])
    indexed, quantization = _read_config(part, request)
    names = [name for name in select_files(request, by_path, indexed) if name != MANIFEST_NAME]
    for name in set(config_files) - set(names):
        (part / name).unlink()
    if request.kind == "model":
        require_quantization(request, quantization)
    _download(part, request, listing.commit, [by_path[name] for name in names])
    files = [_verified(part, request, listing.commit, by_path[name]) for name in names]
    shutil.rmtree(part / ".cache", ignore_errors=True)  # huggingface-hub's bookkeeping
    made = write_manifest(
        part,
        files,
        repository=request.repository,
        revision=request.revision,
        commit=listing.commit,
        kind=request.kind,
        patterns=request.patterns,
        quantization=quantization if request.kind in ("model", "draft") else None,
        licence=listing.licence,
    )
    log.info(
        "%d files, %.1f MB, all checksums match; quantization %s, licence %s",
        len(files),
        made.total_bytes / 1e6,
        made.quantization or "none",
        made.licence or "unknown",
    )


def _read_config(part: Path, request: FetchRequest) -> tuple[set[str] | None, str | None]:
    """Return the weight files in the index, if there is one, and the quantization method."""
    try:
        indexed = shards(part) or (shards(part, PICKLE_INDEX) if request.patterns else None)
        has_config = (part / "config.json").is_file()
        return indexed, quantization_of(part) if has_config else None
    except ModelUnavailable as error:
        raise CheckpointRefused(f"{request.repository}: {error}.") from error


def _download(
    part: Path, request: FetchRequest, commit: str, files: Sequence[hub.RemoteFile]
) -> None:
    if files:
        hub.download_files(request.reference(), commit, files, folder=part)


def _verified(part: Path, request: FetchRequest, commit: str, file: hub.RemoteFile) -> ManifestFile:
    """Compare a file with the hub's size and checksum, downloading it once more if they differ."""
    path = part / file.path
    for attempt in range(MAX_DOWNLOADS):
        size, sha256, git_oid = file_checksums(path, with_git=file.git_oid is not None)
        if size == file.bytes and file.sha256 in (None, sha256) and file.git_oid in (None, git_oid):
            return ManifestFile(path=file.path, bytes=size, sha256=sha256)
        log.warning("%s does not match the hub's checksum", file.path)
        if attempt + 1 < MAX_DOWNLOADS:
            path.unlink()
            _download(part, request, commit, [file])
    raise DamagedFile(
        f"{request.repository}/{file.path} is damaged: the hub has {file.bytes} bytes with "
        f"checksum {file.sha256 or file.git_oid}, got {size} bytes with "
        f"{sha256 if file.sha256 else git_oid}."
    )
