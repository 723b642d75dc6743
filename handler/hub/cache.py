"""Repositories in a cache of huggingface-hub's layout: where one lies, and whether it is whole.

huggingface-hub itself can look into its cache too; it takes an import of half a second, and does
not know that the platform may have lower-cased a folder's name.
"""

import re
from pathlib import Path

from handler.checkpoint import is_complete, json_object, shards
from handler.hub import choice

COMMIT = re.compile(r"[0-9a-f]{40}")


def folder_name(name: str) -> str:
    """Return the folder of a repository in a hub cache."""
    return "models--" + name.replace("/", "--")


def cached(cache: Path, name: str, revision: str | None, weights: bool = True) -> Path | None:
    """Return the snapshot of a repository in a hub cache, if all of it is there.

    Args:
        cache: a folder in huggingface-hub's layout, as the platform keeps it as well.
        name: the repository's name; the platform may have lower-cased its folder.
        revision: a branch, tag or commit; None is `main`.
        weights: whether weights have to be there.
    """
    for folder in (cache / folder_name(name), cache / folder_name(name).lower()):
        snapshot = _snapshot(folder, revision)
        if snapshot is None or not _has_content(snapshot, weights):
            continue
        if _misses_listed_files(folder, snapshot, weights):
            continue
        return snapshot
    return None


def _has_content(snapshot: Path, weights: bool) -> bool:
    if weights:
        return is_complete(snapshot)
    return choice.has_tokenizer(path.name for path in snapshot.iterdir())


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


def _misses_listed_files(folder: Path, snapshot: Path, weights: bool) -> bool:
    """Whether another worker has not finished: huggingface-hub keeps the list of what it fetches.

    The platform's own cache has no such list, and is whole when it is mounted.
    """
    listing = folder / "trees" / f"{snapshot.name}.json"
    if not listing.is_file():
        return False
    names = list(json_object(listing).get("files", ()))
    return any(not (snapshot / name).is_file() for name in _wanted(names, snapshot, weights))


def _wanted(names: list[str], folder: Path, weights: bool) -> list[str]:
    if not weights:
        return choice.small(names)
    return choice.wanted(names, shards(folder))
