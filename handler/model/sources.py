"""The sources of a model's files. The first source that has them is used:

1. the image, outside of every path that a volume can be mounted over;
2. the platform's cache of models;
3. a local folder;
4. the hub caches that the user's variables name (HF_HUB_CACHE, HF_HOME, DOWNLOAD_DIR …);
5. the hub cache on the network volume;
6. the hub (`hub_source.py`); files are downloaded into the first writable cache of 4 and 5.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import SecretStr

from handler.errors import InvalidSetting, ModelUnavailable, is_lasting
from handler.model import hub
from handler.model.checkpoint import CONFIG, file_names, has_config
from handler.model.damage import check_files
from handler.model.hub_cache import find_snapshot, has_files, same_repository
from handler.model.hub_errors import RETRY_WAITS_SECONDS
from handler.model.hub_files import LORA_FILES, other_kind_reason
from handler.model.hub_source import HubRepository
from handler.model.manifest import read_manifest
from handler.model.reference import ArtifactKind, HubReference

log = logging.getLogger(__name__)

BAKED = Path("/opt/models")  # not below /runpod-volume or /workspace, where volumes are mounted
PLATFORM_CACHE = Path("/runpod-volume/huggingface-cache/hub")
VOLUME_CACHE = Path("huggingface-cache/hub")  # below BASE_PATH
CACHED_REPOSITORY = re.compile(r"/models--([^/]+)(/snapshots)?$")
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


Located = FoundFiles | HubRepository


@dataclass(frozen=True)
class ModelSources:
    """All sources of a worker.

    Attributes:
        base_path: the mount of the network volume.
        token: for gated and private repositories.
        baked: the folder in the image with what its build fetched.
        platform_cache: the hub cache that the platform mounts.
        retry_waits_seconds: the waits between failures of the hub.
        user_caches: the hub caches that the user's variables name, in order of priority.
        before_download: called before each repository that is downloaded.
    """

    base_path: Path
    token: SecretStr | None = None
    baked: Path = BAKED
    platform_cache: Path = PLATFORM_CACHE
    retry_waits_seconds: Sequence[float] = RETRY_WAITS_SECONDS
    user_caches: Mapping[str, Path] = field(default_factory=dict)
    before_download: Callable[[], None] = lambda: None

    def find(self, reference: HubReference, kind: ArtifactKind = "model") -> FoundFiles:
        """Return the files from the first source that has them; see `locate` and `fetch`."""
        return self.fetch(self.locate(reference, kind))

    def locate(self, reference: HubReference, kind: ArtifactKind = "model") -> Located:
        """Return where the files are, without a download.

        Raises:
            InvalidSetting: the name can be neither a repository's nor a folder's.
            ModelUnavailable: no source has them, with the hub's reason in one sentence; or a file
                is damaged.
        """
        reference = replace(reference.resolve_url(), token=self.token)
        with _name_explained(reference):
            found = (
                self._in_image(reference, kind)
                or _in_cache(self.platform_cache, "the platform's cache", reference, kind)
                or _local_folder(reference, kind, self.base_path)
                or self._in_user_cache(reference, kind)
                or _in_cache(self.base_path / VOLUME_CACHE, "the volume", reference, kind)
                or self._on_hub(reference, kind)
            )
            if isinstance(found, FoundFiles):
                self._check_files(found, kind)
            return found

    def fetch(self, located: Located) -> FoundFiles:
        """Download what only the hub has.

        Raises:
            ModelUnavailable: the hub's reason, or a full disk, in one sentence; or a file is
                damaged.
        """
        if isinstance(located, FoundFiles):
            return located
        self.before_download()
        with _name_explained(located.reference):
            path = located.download()
            found = FoundFiles(path, located.name, "the hub", is_local=False)
            self._check_files(found, located.kind)
        return found

    def _check_files(self, found: FoundFiles, kind: ArtifactKind) -> None:
        try:
            check_files(found.path, found.name, kind)
        except ModelUnavailable as error:
            if found.path.is_relative_to(self.platform_cache):  # each host has its own copy
                raise ModelUnavailable(str(error), lasting=False) from error
            raise

    def _in_image(self, reference: HubReference, kind: ArtifactKind) -> FoundFiles | None:
        if kind == "lora":
            folders = baked_lora_folders(self.baked)
        else:
            parts = ("model", "draft", "tokenizer") if kind == "tokenizer" else ("model", "draft")
            folders = [self.baked / part for part in parts]
        for folder in folders:
            manifest = read_manifest(folder)
            if manifest is None or not same_repository(manifest.repository, reference.name):
                continue
            if reference.mistral_requested and not has_files(folder, kind, mistral_requested=True):
                log.warning("the image has %s without Mistral's own format", reference.name)
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

    def _in_user_cache(self, reference: HubReference, kind: ArtifactKind) -> FoundFiles | None:
        for variable, cache in self.user_caches.items():
            if found := _in_cache(cache, f"the cache in {variable}", reference, kind):
                return found
        return None

    def _on_hub(self, reference: HubReference, kind: ArtifactKind) -> Located:
        cache = self.hub_cache()
        if (caches := self._caches()) and cache != caches[0]:
            log.warning("%s is not writable", caches[0])
        if cache is None:  # the others were searched before
            cache = Path(hub.default_cache())
            if found := _in_cache(cache, "the container's cache", reference, kind):
                return found
            log.info("downloads are kept in this container only, in %s", cache)
        return HubRepository.find(reference, kind, cache, self.retry_waits_seconds)

    def hub_cache(self) -> Path | None:
        """Return the cache for downloads, None for the container's own.

        It is the first writable one of the user's and the volume's.
        """
        return next(filter(_is_writable, self._caches()), None)

    def environment(self) -> dict[str, str]:
        """Return the variables with which an engine's own downloads go to the same cache."""
        cache = self.hub_cache()
        return {"HF_HUB_CACHE": str(cache)} if cache else {}

    def _caches(self) -> list[Path]:
        volume = [self.base_path / VOLUME_CACHE] if self.base_path.is_dir() else []
        return [*self.user_caches.values(), *volume]


@contextmanager
def _name_explained(reference: HubReference) -> Iterator[None]:
    """Explain the errors of a name that is too long for a file, a folder without permission …

    Raises:
        InvalidSetting: an error of the operating system.
    """
    try:
        yield
    except OSError as error:
        name = reference.name
        if len(name) >= MAX_SHOWN_CHARACTERS:
            name = f"{name[:MAX_SHOWN_CHARACTERS]}…"
        raise InvalidSetting(
            f"{reference.setting}={name!r}: {error.strerror or error}.", lasting=is_lasting(error)
        ) from error


def baked_lora_folders(baked: Path) -> list[Path]:
    """Return the folders of the adapters in the image."""
    return sorted(baked.glob("lora/[!.]*"))


def _is_writable(cache: Path) -> bool:
    """Whether a cache exists or can be created, and can be written to."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        log.debug("%s cannot be created", cache, exc_info=True)
        return False
    return os.access(cache, os.W_OK)


def _in_cache(
    cache: Path, source: str, reference: HubReference, kind: ArtifactKind
) -> FoundFiles | None:
    path = find_snapshot(cache, reference, kind)
    return FoundFiles(path, reference.name, source) if path else None


def _local_folder(reference: HubReference, kind: ArtifactKind, volume: Path) -> FoundFiles | None:
    folder = Path(os.path.expanduser(reference.name))
    if folder.is_dir() and _is_usable(folder, kind):
        folder = folder.resolve()
        return FoundFiles(folder, _repository_name(folder), "a local folder")
    if folder.is_dir() or reference.name.startswith(("/", "./", "../", "~")):
        raise ModelUnavailable(
            f"{reference.setting}={reference.name!r}{_unusable_reason(folder, kind)}.",
            lasting=volume.is_dir() or not folder.is_relative_to(volume),  # mounted elsewhere
        )
    return None


def _unusable_reason(folder: Path, kind: ArtifactKind) -> str:
    """Return why a path cannot be used as that kind of folder."""
    if not folder.is_dir():
        if folder.exists():
            return " is a file, but must be the folder of the model"
        return " is a path that does not exist: check the mount of the volume"
    if cached := CACHED_REPOSITORY.search(str(folder.resolve())):
        name = cached[1].replace("--", "/", 1)
        return f" is a repository's folder in a hub cache: give its name, {name}"
    if kind == "model" and (other := other_kind_reason("the folder", file_names(folder))):
        return f": {other}"
    missing = {"model": CONFIG, "tokenizer": "tokenizer"}.get(kind) or next(
        (name for name in LORA_FILES if not (folder / name).is_file()), kind
    )
    return f" looks like a local folder, but has no {missing}"


def _is_usable(folder: Path, kind: ArtifactKind) -> bool:
    """Whether a folder has the files of that kind; LOAD_FORMAT=dummy needs no weights."""
    return has_config(folder) if kind == "model" else has_files(folder, kind)


def _repository_name(folder: Path) -> str:
    """Return the repository that a folder was downloaded from, or the folder's name."""
    try:
        if manifest := read_manifest(folder):
            return manifest.repository
    except ModelUnavailable:
        log.debug("%s has another program's manifest.json", folder)
    snapshot = SNAPSHOT.search(str(folder))
    return snapshot[1].replace("--", "/", 1) if snapshot else folder.name
