"""Download a repository at one commit into a folder, verify every file, write the manifest."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from builder.errors import CheckpointRefused
from builder.fetch.dependencies import fetch_dependencies
from builder.fetch.output_folder import (
    atomic_folder,
    exclusive_lock,
    existing_manifest,
    folder_in_use,
    is_intact,
    write_manifest,
)
from builder.fetch.request import FetchRequest
from builder.fetch.selection import PICKLE_INDEX, require_quantization, select_files
from builder.fetch.verification import verified_files
from handler.errors import ModelUnavailable
from handler.model import hub, mistral
from handler.model.checkpoint import (
    CONFIG,
    INDEX,
    has_config,
    index_of_weights,
    quantization_of,
    shards,
)
from handler.model.hub_cache import same_repository
from handler.model.manifest import MANIFEST_NAME

log = logging.getLogger("fetch")

# Downloaded first: they decide which other files are fetched, and whether any are.
CONFIG_FILES = (
    CONFIG,
    mistral.PARAMS,
    "hf_quant_config.json",
    INDEX,
    mistral.INDEX,
    PICKLE_INDEX,
)


def fetch_repository(request: FetchRequest, folder: Path) -> Path:
    """Return the folder with the repository's files, downloaded unless it is there at the commit.

    Raises:
        CheckpointRefused: it is not what was requested, or the folder holds something else.
        DamagedFile: a file does not match the hub's checksum.
        ModelUnavailable, InvalidSetting: the hub refuses, or the disk is too small.
    """
    target = folder.resolve()
    listing = hub.list_repository(request.reference())
    with exclusive_lock(target.with_name(f".{target.name}.lock"), log.info):
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
    same = same_repository(there.repository, request.repository)
    if not same or there.kind != request.kind:
        raise folder_in_use(folder, f"holds {there.repository} as a {there.kind}")
    found = (there.commit, there.patterns, there.mistral_requested)
    if found != (commit, request.patterns, request.mistral_requested):
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
    index = index_of_weights(by_path, request.mistral_requested) or INDEX
    indexed, quantization = _read_config(part, request, index)
    names = [name for name in select_files(request, by_path, indexed) if name != MANIFEST_NAME]
    for name in set(config_files) - set(names):
        (part / name).unlink()
    if request.kind == "model":
        require_quantization(request, quantization)
    _download(part, request, listing.commit, [by_path[name] for name in names])
    reference = request.reference()
    selected = [by_path[name] for name in names]
    files = verified_files(part, reference, listing.commit, selected)
    shutil.rmtree(part / ".cache", ignore_errors=True)  # huggingface-hub's bookkeeping
    if request.kind != "lora":
        files += fetch_dependencies(part, request)
    made = write_manifest(
        part,
        files,
        repository=request.repository,
        revision=request.revision,
        commit=listing.commit,
        kind=request.kind,
        patterns=request.patterns,
        mistral_requested=request.mistral_requested,
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


def _read_config(
    part: Path, request: FetchRequest, index: str
) -> tuple[set[str] | None, str | None]:
    """Return the weight files in the index, if there is one, and the quantization method."""
    try:
        indexed = shards(part, index) or (shards(part, PICKLE_INDEX) if request.patterns else None)
        return indexed, quantization_of(part) if has_config(part) else None
    except ModelUnavailable as error:
        raise CheckpointRefused(f"{request.repository}: {error}.") from error


def _download(
    part: Path, request: FetchRequest, commit: str, files: Sequence[hub.RemoteFile]
) -> None:
    if files:
        hub.download_files(request.reference(), commit, files, folder=part)
