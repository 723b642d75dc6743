"""Where a model's files can be. The first source that has them is used:

1. the image, outside of every path that a volume can be mounted over;
2. the platform's cache of models;
3. a local folder;
4. the hub cache on the network volume;
5. the hub, which is downloaded into that cache.
"""

import logging
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import SecretStr

from handler.errors import InvalidSetting, ModelUnavailable
from handler.model import hub
from handler.model.checkpoint import INDEX, model_named_in_errors, shards
from handler.model.hub_cache import find_snapshot, has_files, write_ref
from handler.model.hub_errors import RETRY_WAITS_SECONDS
from handler.model.hub_files import LORA_FILES, engine_files, no_weights_reason
from handler.model.manifest import read_manifest
from handler.model.reference import ArtifactKind, HubReference

log = logging.getLogger(__name__)

BAKED = Path("/opt/models")  # not below /runpod-volume or /workspace, where volumes are mounted
PLATFORM_CACHE = Path("/runpod-volume/huggingface-cache/hub")
VOLUME_CACHE = Path("huggingface-cache/hub")  # below BASE_PATH
SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/[^/]+$")
MAX_SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class FoundFiles:
    """A folder with the files of a repository.

    Attributes:
        path: the folder.
        name: the repository, or the folder's name.
        source: where it was found, for the log.
        is_local: whether it was found without the hub.
    """

    path: Path
    name: str
    source: str
    is_local: bool = True


@dataclass(frozen=True)
class ModelSources:
    """All sources of a worker.

    Attributes:
        base_path: the mount of the network volume.
        token: for gated and private repositories.
        baked: the folder in the image with what its build fetched.
        platform_cache: the hub cache that the platform mounts.
        retry_waits_seconds: the waits between failures of the hub.
    """

    base_path: Path
    token: SecretStr | None = None
    baked: Path = BAKED
    platform_cache: Path = PLATFORM_CACHE
    retry_waits_seconds: Sequence[float] = RETRY_WAITS_SECONDS

    def find(self, reference: HubReference, kind: ArtifactKind = "model") -> FoundFiles:
        """Return the files from the first source that has them.

        Raises:
            InvalidSetting: the name can be neither a repository's nor a folder's.
            ModelUnavailable: no source has them, with the hub's reason in one sentence.
        """
        reference = replace(reference, token=self.token)
        try:
            return (
                self._in_image(reference, kind)
                or _in_cache(self.platform_cache, "the platform's cache", reference, kind)
                or _local_folder(reference, kind)
                or _in_cache(self.base_path / VOLUME_CACHE, "the volume", reference, kind)
                or self._from_hub(reference, kind)
            )
        except OSError as error:  # a name too long for a file, a folder without permission
            name = reference.name
            if len(name) >= MAX_SHOWN_CHARACTERS:
                name = f"{name[:MAX_SHOWN_CHARACTERS]}…"
            raise InvalidSetting(
                f"{reference.setting}={name!r}: {error.strerror or error}."
            ) from error

    def _in_image(self, reference: HubReference, kind: ArtifactKind) -> FoundFiles | None:
        if kind == "lora":
            folders = baked_lora_folders(self.baked)
        else:
            parts = ("model", "draft", "tokenizer") if kind == "tokenizer" else ("model", "draft")
            folders = [self.baked / part for part in parts]
        for folder in folders:
            manifest = read_manifest(folder)
            if manifest is None or manifest.repository != reference.name:
                continue
            if reference.revision in (None, manifest.revision, manifest.commit):
                manifest.check(folder)
                source = f"the image, commit {manifest.commit[:12]}"
                return FoundFiles(folder, reference.name, source)
            log.warning(
                "%s=%s is not in the image, which has commit %s of %s",
                reference.revision_setting,
                reference.revision,
                manifest.commit,
                manifest.repository,
            )
        return None

    def _from_hub(self, reference: HubReference, kind: ArtifactKind) -> FoundFiles:
        cache = self._writable_cache()
        # The volume's cache was searched before.
        if cache != self.base_path / VOLUME_CACHE and (
            found := _in_cache(cache, "the container's cache", reference, kind)
        ):
            return found
        listing = hub.list_repository(reference, self.retry_waits_seconds)
        by_path = {file.path: file for file in listing.files}

        def download(names: Sequence[str]) -> Path:
            return hub.download_files(
                reference,
                listing.commit,
                [by_path[name] for name in names],
                cache=cache,
                retry_waits_seconds=self.retry_waits_seconds,
            )

        index = None
        if kind == "model" and INDEX in by_path:
            snapshot = download([INDEX])
            with model_named_in_errors(reference.name):
                index = shards(snapshot)
        names = engine_files(kind, by_path, index)
        if reason := _incomplete_reason(reference.name, kind, by_path, names, index):
            raise ModelUnavailable(f"{reason}.")
        path = download(names)
        try:
            write_ref(cache, reference, listing.commit)
        except OSError as error:  # only costs the next start a request to the hub
            log.warning("%s: its commit was not recorded: %s", reference.name, error.strerror)
        return FoundFiles(path, reference.name, "the hub", is_local=False)

    def _writable_cache(self) -> Path:
        """Return the volume's cache, or the container's without a writable volume."""
        from huggingface_hub import constants

        cache = self.base_path / VOLUME_CACHE
        if self.base_path.is_dir():
            try:
                cache.mkdir(parents=True, exist_ok=True)
                if os.access(cache, os.W_OK):
                    return cache
            except OSError:
                log.debug("%s cannot be made", cache, exc_info=True)
            log.warning("%s is not writable: downloads are kept in this container only", cache)
        return Path(constants.HF_HUB_CACHE)


def baked_lora_folders(baked: Path) -> list[Path]:
    """Return the folders of the adapters in the image."""
    return sorted(baked.glob("lora/[!.]*"))


def _in_cache(
    cache: Path, source: str, reference: HubReference, kind: ArtifactKind
) -> FoundFiles | None:
    path = find_snapshot(cache, reference, kind)
    return FoundFiles(path, reference.name, source) if path else None


def _local_folder(reference: HubReference, kind: ArtifactKind) -> FoundFiles | None:
    folder = Path(os.path.expanduser(reference.name))
    if folder.is_dir() and _is_usable(folder, kind):
        folder = folder.resolve()
        return FoundFiles(folder, _repository_name(folder), "a local folder")
    if folder.is_dir() or reference.name.startswith(("/", "./", "../", "~")):
        missing = {"model": "config.json", "tokenizer": "tokenizer"}.get(kind) or next(
            (name for name in LORA_FILES if not (folder / name).is_file()), kind
        )
        raise ModelUnavailable(
            f"{reference.setting}={reference.name!r} looks like a local folder, "
            f"but has no {missing}."
        )
    return None


def _is_usable(folder: Path, kind: ArtifactKind) -> bool:
    """A model may be without weights: LOAD_FORMAT=dummy makes up random ones."""
    return (folder / "config.json").is_file() if kind == "model" else has_files(folder, kind)


def _repository_name(folder: Path) -> str:
    """Return the repository that a folder was downloaded from, or the folder's name."""
    try:
        if manifest := read_manifest(folder):
            return manifest.repository
    except ModelUnavailable:
        log.debug("%s has another program's manifest.json", folder)
    snapshot = SNAPSHOT.search(str(folder))
    return snapshot[1].replace("--", "/", 1) if snapshot else folder.name


def _incomplete_reason(
    repository: str,
    kind: ArtifactKind,
    names: Collection[str],
    selected: Sequence[str],
    index: set[str] | None,
) -> str | None:
    """Return why a repository's files make no model or adapter, None if they do."""
    if kind == "lora":
        missing = [name for name in LORA_FILES if name not in names]
        return f"{repository} has no {missing[0]}: it is not a LoRA adapter" if missing else None
    if missing := sorted((index or set()) - set(names)):
        return f"{repository} has no {missing[0]}, which is in its index"
    if kind == "model" and not any(name.endswith(".safetensors") for name in selected):
        return no_weights_reason(repository, names)
    return None
