"""Snapshots in hub caches, in huggingface-hub's layout: the platform's, user's and volume's.

huggingface-hub can look into its cache as well, but takes half a second to import and does not
know that the platform lower-cases the names of folders.
"""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from handler.errors import ModelUnavailable
from handler.model.checkpoint import (
    index_of_weights,
    is_complete,
    json_object,
    shards,
)
from handler.model.hub_files import (
    LORA_FILES,
    broken_links,
    engine_files,
    has_tokenizer,
    required_files,
)
from handler.model.reference import ArtifactKind, HubReference
from handler.settings.variables import clean_value, is_no_value

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
# Variable → the cache's folder below its value; the first variable has priority. HF_HUB_CACHE and
# HF_HOME are huggingface-hub's, the others older or the engines'.
CACHE_VARIABLES = {
    "HF_HUB_CACHE": "",
    "HUGGINGFACE_HUB_CACHE": "",
    "HF_HOME": "hub",
    "TRANSFORMERS_CACHE": "",
    "DOWNLOAD_DIR": "",
}


def caches_in_environ(environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the caches that the user's variables name, in order of priority."""
    values = {name: clean_value(environ.get(name, "")) for name in CACHE_VARIABLES}
    return {
        name: Path(os.path.expandvars(os.path.expanduser(values[name])), below)
        for name, below in CACHE_VARIABLES.items()
        if values[name] and not is_no_value(values[name])
    }


def repository_folder(name: str) -> str:
    """Return the name of a repository's folder in a hub cache."""
    return "models--" + name.replace("/", "--")


def find_snapshot(
    cache: Path, reference: HubReference, kind: ArtifactKind = "model"
) -> Path | None:
    """Return a repository's snapshot in a hub cache, None unless all its files are there."""
    for folder in _repository_folders(cache, reference.name):
        try:
            snapshot = _snapshot(folder, reference.revision)
            if snapshot and has_files(snapshot, kind, reference.mistral_requested):
                if broken := broken_links(snapshot, kind, reference.mistral_requested):
                    log.warning("%s: the target of the link %s is missing", snapshot, broken[0])
                    continue
                if not _is_downloading(folder, snapshot, kind, reference.mistral_requested):
                    return snapshot
                log.info("%s is not complete yet", snapshot)
        except (ModelUnavailable, OSError, ValueError) as error:  # a ref that is not text
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


def has_files(folder: Path, kind: ArtifactKind, mistral_requested: bool = False) -> bool:
    """Whether a folder has all weights of a model, a tokenizer, a LoRA adapter, or code."""
    if kind == "model":
        return is_complete(folder, mistral_requested)
    names = {path.name for path in folder.iterdir()}
    if kind == "code":
        return any(name.endswith(".py") for name in names)
    return has_tokenizer(names) if kind == "tokenizer" else names >= set(LORA_FILES)


def same_repository(name: str, other: str) -> bool:
    """Whether two names are one repository's: on the hub, case does not matter."""
    return name.casefold() == other.casefold()


def _repository_folders(cache: Path, name: str) -> list[Path]:
    """Return a repository's folders: as named, in lower case, and the one in another case."""
    folder = repository_folder(name)
    try:
        names = {path.name for path in cache.iterdir() if same_repository(path.name, folder)}
    except (FileNotFoundError, NotADirectoryError):
        return []
    first = [each for each in dict.fromkeys((folder, folder.lower())) if each in names]
    others = sorted(names - {folder, folder.lower()})
    if len(others) > 1:
        log.warning("%s has several folders for %s: %s", cache, name, ", ".join(others))
        others = []
    return [cache / each for each in [*first, *others]]


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


def _is_downloading(
    folder: Path, snapshot: Path, kind: ArtifactKind, mistral_requested: bool
) -> bool:
    """Whether files of huggingface-hub's list are missing, because another worker downloads.

    The platform's own cache has no such list; it is complete when it is mounted.
    """
    listing = folder / "trees" / f"{snapshot.name}.json"
    if not listing.is_file():
        return False
    names = list(json_object(listing).get("files", ()))
    index = index_of_weights(names, mistral_requested) if kind == "model" else None
    indexed = shards(snapshot, index) if index else None
    selected = engine_files(kind, names, indexed, mistral_requested=mistral_requested)
    return any(not (snapshot / name).is_file() for name in required_files(selected))
