"""Repositories in a cache of huggingface-hub's layout: where one lies, and whether it is whole.

huggingface-hub itself can look into its cache too; it takes an import of half a second, and does
not know that the platform may have lower-cased a folder's name.
"""

import logging
import os
import re
from pathlib import Path
from typing import Literal

from handler.errors import ModelUnavailable
from handler.model import hub_files
from handler.model.checkpoint import is_complete, json_object, shards
from handler.model.reference import HubReference

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")


def folder_name(name: str) -> str:
    """Return the folder of a repository in a hub cache."""
    return "models--" + name.replace("/", "--")


Content = Literal["model", "tokenizer", "lora"]


def cached(cache: Path, reference: HubReference, content: Content = "model") -> Path | None:
    """Return the snapshot of a repository in a hub cache, if all of it is there.

    Args:
        cache: a folder in huggingface-hub's layout, as the platform keeps it as well.
        reference: the repository; the platform may have lower-cased its folder.
        content: what has to be there.
    """
    name = folder_name(reference.name)
    for folder in (cache / name, cache / name.lower()):
        try:
            snapshot = _snapshot(folder, reference.revision)
            if snapshot and has_content(snapshot, content):
                if not _misses_listed_files(folder, snapshot, content):
                    return snapshot
                log.info("%s is not complete yet", snapshot)
        except (ModelUnavailable, OSError) as error:
            log.warning("%s is left alone: %s", folder, error)
    return None


def remember(cache: Path, reference: HubReference, commit: str) -> None:
    """Write down which commit a branch or tag was, as huggingface-hub does."""
    revision = reference.revision or "main"
    if COMMIT.fullmatch(revision):
        return
    ref = cache / folder_name(reference.name) / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    part = ref.with_name(f"{ref.name}.{os.getpid()}")
    part.write_text(commit)
    part.replace(ref)


def has_content(folder: Path, content: Content) -> bool:
    """Say whether a folder has all of a model's weights, a tokenizer, or a LoRA adapter."""
    if content == "model":
        return is_complete(folder)
    names = {path.name for path in folder.iterdir()}
    return (
        hub_files.has_tokenizer(names)
        if content == "tokenizer"
        else names >= set(hub_files.ADAPTER)
    )


def _snapshot(folder: Path, revision: str | None) -> Path | None:
    snapshots, ref = folder / "snapshots", folder / "refs" / (revision or "main")
    if revision and COMMIT.fullmatch(revision):
        commit = revision
    elif ref.is_file():
        commit = ref.read_text().strip()
    elif revision is None and snapshots.is_dir() and len(all_of := list(snapshots.iterdir())) == 1:
        commit = all_of[0].name
    else:
        return None
    path = snapshots / commit
    return path if commit and path.is_dir() else None


def _misses_listed_files(folder: Path, snapshot: Path, content: Content) -> bool:
    """Whether another worker has not finished: huggingface-hub keeps the list of what it fetches.

    The platform's own cache has no such list, and is whole when it is mounted.
    """
    listing = folder / "trees" / f"{snapshot.name}.json"
    if not listing.is_file():
        return False
    names = list(json_object(listing).get("files", ()))
    if content == "model":
        chosen = hub_files.wanted(names, shards(snapshot))
    else:
        chosen = hub_files.small(names) if content == "tokenizer" else hub_files.adapter(names)
    return any(not (snapshot / name).is_file() for name in hub_files.needed(chosen))
