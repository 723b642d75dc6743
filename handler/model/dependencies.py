"""Other repositories that a checkpoint's configuration names, and that an engine reads too.

- `auto_map` in any configuration, as `org/code--module.Class`: code for TRUST_REMOTE_CODE.
- The verifier of a Speculators checkpoint, which vLLM serves in its place.
- The language and audio models of Ultravox, the audio tokenizer of a processor.

The engine looks for them by name in its hub cache, and the hub is turned off where the model is
local. So they are found or fetched beside the model, and linked into a hub cache of their own.
"""

import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.errors import ModelUnavailable
from handler.model.hub_cache import COMMIT, find_snapshot, repository_folder
from handler.model.reference import ArtifactKind, HubReference
from handler.model.sources import FoundFiles, ModelSources

log = logging.getLogger(__name__)

FETCHED_CACHE = Path("hub")  # in a fetched folder: the hub cache with its dependencies
ULTRAVOX_FIELDS = ("text_model_id", "audio_model_id")
MAX_CONFIG_BYTES = 1 << 20  # a larger one is a vocabulary
NO_COMMIT = "0" * 40


@dataclass(frozen=True)
class Dependency:
    """A repository that a configuration names.

    Attributes:
        name: org/name.
        kind: code, or a model with its weights.
        file: the configuration.
    """

    name: str
    kind: ArtifactKind
    file: str


def dependencies(folder: Path, *, is_draft: bool = False) -> list[Dependency]:
    """Return the repositories that the configurations in a folder name.

    Args:
        folder: of a model, draft model or tokenizer.
        is_draft: whether it is a draft model, whose verifier is not a dependency.
    """
    found: dict[tuple[str, ArtifactKind], Dependency] = {}
    for path in sorted(folder.glob("*.json")):
        for name, kind in _dependencies_in(_content(path), is_draft):
            if name.count("/") == 1 and not name.startswith((".", "/", "~")):
                found.setdefault((name, kind), Dependency(name, kind, path.name))
    return list(found.values())


def find_dependencies(
    found: FoundFiles,
    sources: ModelSources,
    *,
    is_draft: bool = False,
    known: Collection[Dependency] = (),
) -> Iterator[FoundFiles]:
    """Find or fetch the dependencies of a model or tokenizer, and their own dependencies.

    Args:
        found: the model or tokenizer.
        sources: where to look.
        is_draft: whether it is a draft model, whose verifier is not a dependency.
        known: the dependencies that led to it; repositories may name each other.

    Raises:
        ModelUnavailable, InvalidSetting: a dependency with weights is not available.
    """
    for needed in dependencies(found.path, is_draft=is_draft):
        if (needed.name, needed.kind) in {(each.name, each.kind) for each in known}:
            continue
        reference = HubReference(needed.name, setting=f"{needed.file} of {found.name}")
        if snapshot := find_snapshot(found.path / FETCHED_CACHE, reference, needed.kind):
            files = FoundFiles(snapshot, needed.name, found.source)
        else:
            try:
                files = sources.find(reference, needed.kind)
            except ModelUnavailable as error:
                if needed.kind != "code":
                    reason = f"{reference.setting} names {error}"
                    raise ModelUnavailable(reason, lasting=error.lasting) from error
                # An engine does not need it without TRUST_REMOTE_CODE, or if it implements the
                # model itself.
                log.warning("%s names code that is not available: %s", reference.setting, error)
                continue
        yield files
        if needed.kind == "model":
            yield from find_dependencies(files, sources, known=[*known, needed])


def link_into_cache(found: list[FoundFiles], cache: Path) -> None:
    """Link repositories into a folder that engines read as a hub cache."""
    for files in found:
        commit = files.path.name if COMMIT.fullmatch(files.path.name) else NO_COMMIT
        folder = cache / repository_folder(files.name)
        write_cached_ref(folder, commit)
        link = folder / "snapshots" / commit
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            link.unlink()
        link.symlink_to(files.path, target_is_directory=True)


def write_cached_ref(folder: Path, commit: str) -> Path:
    """Record the commit of `main` in a repository's folder of a hub cache."""
    ref = folder / "refs" / "main"
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)
    return ref


def _content(path: Path) -> Any:
    try:
        if path.stat().st_size <= MAX_CONFIG_BYTES:
            return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # reported where the file itself is needed
        log.debug("%s cannot be read", path, exc_info=True)
    return None


def _dependencies_in(value: Any, is_draft: bool) -> Iterator[tuple[str, ArtifactKind]]:
    if isinstance(value, list):
        for item in value:
            yield from _dependencies_in(item, is_draft)
    if not isinstance(value, dict):
        return
    models = [value.get("audio_tokenizer_name_or_path")]
    if value.get("model_type") == "ultravox":
        models += [value.get(field) for field in ULTRAVOX_FIELDS]
    if not is_draft and isinstance(verifier := value.get("verifier"), dict):
        models.append(verifier.get("name_or_path"))
    yield from ((name, "model") for name in models if isinstance(name, str))
    yield from ((name, "code") for name in _code_repositories(value.get("auto_map")))
    for key, item in value.items():
        if key != "auto_map":
            yield from _dependencies_in(item, is_draft)


def _code_repositories(value: Any) -> Iterator[str]:
    """Yield the repositories in an auto_map: `repo--module.Class`, alone or in lists."""
    if isinstance(value, str) and "--" in value:
        yield value.partition("--")[0]
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _code_repositories(item)
