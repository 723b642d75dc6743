"""Snapshots in a cache of huggingface-hub's layout: the platform's, the volume's, the container's.

huggingface-hub can look into its cache as well, but takes half a second to import and does not
know that the platform lower-cases the names of folders.
"""

import logging
import os
import re
from pathlib import Path

from handler.errors import ModelUnavailable
from handler.model.checkpoint import is_complete, json_object, shards
from handler.model.hub_files import LORA_FILES, engine_files, has_tokenizer, required_files
from handler.model.reference import ArtifactKind, HubReference

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")


def repository_folder(name: str) -> str:
    """Return the name of a repository's folder in a hub cache."""
    return "models--" + name.replace("/", "--")


def find_snapshot(
    cache: Path, reference: HubReference, kind: ArtifactKind = "model"
) -> Path | None:
    """Return a repository's snapshot in a hub cache, None unless all its files are there."""
    name = repository_folder(reference.name)
    for folder in (cache / name, cache / name.lower()):
        try:
            snapshot = _snapshot(folder, reference.revision)
            if snapshot and has_files(snapshot, kind):
                if not _is_downloading(folder, snapshot, kind):
                    return snapshot
                log.info("%s is not complete yet", snapshot)
        except (ModelUnavailable, OSError) as error:
            log.warning("%s is ignored: %s", folder, error)
    return None


def write_ref(cache: Path, reference: HubReference, commit: str) -> None:
    """Record a branch's or tag's commit in the cache, as huggingface-hub does."""
    revision = reference.revision or "main"
    if COMMIT.fullmatch(revision):
        return
    ref = cache / repository_folder(reference.name) / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    partial = ref.with_name(f"{ref.name}.{os.getpid()}")
    partial.write_text(commit)
    partial.replace(ref)


def has_files(folder: Path, kind: ArtifactKind) -> bool:
    """Whether a folder has a model with all its weights, a tokenizer, or a LoRA adapter."""
    if kind == "model":
        return is_complete(folder)
    names = {path.name for path in folder.iterdir()}
    return has_tokenizer(names) if kind == "tokenizer" else names >= set(LORA_FILES)


def _snapshot(folder: Path, revision: str | None) -> Path | None:
    snapshots, ref = folder / "snapshots", folder / "refs" / (revision or "main")
    if revision and COMMIT.fullmatch(revision):
        commit = revision
    elif ref.is_file():
        commit = ref.read_text().strip()
    elif revision is None and snapshots.is_dir() and len(commits := list(snapshots.iterdir())) == 1:
        commit = commits[0].name
    else:
        return None
    path = snapshots / commit
    return path if commit and path.is_dir() else None


def _is_downloading(folder: Path, snapshot: Path, kind: ArtifactKind) -> bool:
    """Whether files are missing that huggingface-hub has on its list: another worker's download.

    The platform's own cache has no such list; it is complete when it is mounted.
    """
    listing = folder / "trees" / f"{snapshot.name}.json"
    if not listing.is_file():
        return False
    names = list(json_object(listing).get("files", ()))
    selected = engine_files(kind, names, shards(snapshot) if kind == "model" else None)
    return any(not (snapshot / name).is_file() for name in required_files(selected))
