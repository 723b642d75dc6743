"""Repositories that a fetched configuration depends on: a hub cache in the output folder."""

import logging
import shutil
from pathlib import Path

from builder.fetch.output_folder import file_checksums
from builder.fetch.request import TOKEN_ADVICE, FetchRequest
from builder.fetch.verification import verified_files
from handler.errors import ModelUnavailable
from handler.model import hub
from handler.model.checkpoint import index_of_weights, shards
from handler.model.dependencies import FETCHED_CACHE, dependencies, write_cached_ref
from handler.model.hub_cache import repository_folder
from handler.model.hub_files import engine_files
from handler.model.manifest import ManifestFile
from handler.model.reference import ArtifactKind, HubReference

log = logging.getLogger("fetch")


def fetch_dependencies(part: Path, request: FetchRequest) -> list[ManifestFile]:
    """Fetch the repositories that configurations in a folder name, recursively; return the files.

    Raises:
        ModelUnavailable, InvalidSetting: a named model with weights is not available.
        DamagedFile: a file does not match the hub's checksum.
    """
    fetched: dict[str, ManifestFile] = {}
    done: set[tuple[str, ArtifactKind]] = set()
    folders = [part]
    while folders:
        folder = folders.pop()
        is_draft = request.kind == "draft" and folder == part
        for needed in dependencies(folder, is_draft=is_draft):
            if (needed.name, needed.kind) in done:
                continue
            done.add((needed.name, needed.kind))
            source = f"{needed.file} of {request.repository}"
            reference = HubReference(
                needed.name,
                setting=source,
                token=request.token,
                token_advice=TOKEN_ADVICE,
            )
            try:
                snapshot, files = _fetch_snapshot(part / FETCHED_CACHE, reference, needed.kind)
            except ModelUnavailable as error:
                if needed.kind != "code":
                    raise ModelUnavailable(f"{source} names {error}") from error
                log.warning("%s names code that is not available: %s", source, error)
                continue
            log.info("%s is fetched too, because %s names it", needed.name, source)
            prefix = snapshot.relative_to(part).as_posix()
            for path, file in files.items():
                fetched[f"{prefix}/{path}"] = file
            ref = write_cached_ref(snapshot.parents[1], snapshot.name)
            size, sha256, _ = file_checksums(ref)
            fetched[ref.relative_to(part).as_posix()] = ManifestFile(
                path=ref.name, bytes=size, sha256=sha256
            )
            if needed.kind == "model":
                folders.append(snapshot)
    return [file.model_copy(update={"path": path}) for path, file in fetched.items()]


def _fetch_snapshot(
    cache: Path, reference: HubReference, kind: ArtifactKind
) -> tuple[Path, dict[str, ManifestFile]]:
    listing = hub.list_repository(reference)
    folder = cache / repository_folder(listing.repository) / "snapshots" / listing.commit
    by_path = {file.path: file for file in listing.files}
    indexed, index = None, index_of_weights(by_path)
    if kind == "model" and index:
        hub.download_files(reference, listing.commit, [by_path[index]], folder=folder)
        indexed = shards(folder, index)
    files = [by_path[name] for name in engine_files(kind, by_path, indexed)]
    if not files:
        raise ModelUnavailable(f"{reference.name}: it has no files that an engine loads.")
    hub.download_files(reference, listing.commit, files, folder=folder)
    found = verified_files(folder, reference, listing.commit, files)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # huggingface-hub's bookkeeping
    return folder, {file.path: file for file in found}
