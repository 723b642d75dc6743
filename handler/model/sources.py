"""Where a repository's files are. Looked for in this order, and the first place is taken:

1. baked into the image, outside every path that a volume can be mounted over;
2. the platform's cache of models, on its mount;
3. a local folder;
4. the hub cache on the network volume;
5. the hub, whose files go into that cache.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from handler.errors import InvalidSetting, ModelUnavailable
from handler.model import hub, hub_files, manifest
from handler.model.checkpoint import INDEX, shards
from handler.model.hub_cache import Content, cached, has_content, remember
from handler.model.reference import HubReference

if TYPE_CHECKING:  # the image's fetch stage has no settings
    from handler.settings import Settings

log = logging.getLogger(__name__)

BAKED = Path("/opt/models")  # not below /runpod-volume or /workspace, where volumes are mounted
PLATFORM_CACHE = Path("/runpod-volume/huggingface-cache/hub")
VOLUME_CACHE = Path("huggingface-cache/hub")  # below BASE_PATH
CACHED = re.compile(r"/models--([^/]+)/snapshots/[^/]+$")


@dataclass(frozen=True)
class FoundFiles:
    """A folder with the files of a repository, and where it was found."""

    path: Path
    name: str
    source: str
    is_local: bool = True


def find(
    settings: Settings, baked: Path, named: HubReference, content: Content = "model"
) -> FoundFiles:
    """Find a repository or folder in the first place that has it.

    Args:
        settings: with the token and the volume's mount.
        baked: where the image keeps what its build fetched.
        named: what to find, and the setting that names it.
        content: what of it is needed.

    Raises:
        InvalidSetting: the name cannot be one.
        ModelUnavailable: it is nowhere, with the hub's reason in one sentence.
    """
    named = HubReference(named.name, named.revision, named.setting, settings.hf_token)
    try:
        return (
            _baked(baked, named, content)
            or _cached(PLATFORM_CACHE, "the platform's cache", named, content)
            or _local(named, content)
            or _cached(settings.base_path / VOLUME_CACHE, "the volume", named, content)
            or _from_hub(settings.base_path, named, content)
        )
    except OSError as error:  # a name too long for a file, a folder that may not be read
        shown = named.name if len(named.name) < 100 else f"{named.name[:100]}…"
        raise InvalidSetting(f"{named.setting}={shown!r}: {error.strerror or error}.") from error


def _kinds(baked: Path, content: Content) -> list[str]:
    """Return the folders below `baked` that may hold it; a model's tokenizer is one as well."""
    if content == "lora":
        return [f"lora/{folder.name}" for folder in sorted(baked.glob("lora/[!.]*"))]
    return ["model", "draft"] + (["tokenizer"] if content == "tokenizer" else [])


def _baked(baked: Path, named: HubReference, content: Content) -> FoundFiles | None:
    for folder in (baked / kind for kind in _kinds(baked, content)):
        there = manifest.read(folder)
        if there is None or there.repository != named.name:
            continue
        if named.revision in (None, there.revision, there.commit):
            there.check(folder)
            return FoundFiles(folder, there.repository, f"the image, commit {there.commit[:12]}")
        log.warning(
            "%s=%s was asked for, the image holds commit %s of %s",
            *(named.revision_setting, named.revision, there.commit, there.repository),
        )
    return None


def _cached(cache: Path, source: str, named: HubReference, content: Content) -> FoundFiles | None:
    path = cached(cache, named, content)
    return FoundFiles(path, named.name, source) if path else None


def _local(named: HubReference, content: Content) -> FoundFiles | None:
    folder = Path(os.path.expanduser(named.name))
    if folder.is_dir() and _is_it(folder, content):
        folder = folder.resolve()
        return FoundFiles(folder, _name_of(folder), "a local folder")
    if folder.is_dir() or named.name.startswith(("/", "./", "../", "~")):
        lacking: str = "config.json" if content == "model" else content
        if content == "lora":
            lacking = next((f for f in hub_files.ADAPTER if not (folder / f).is_file()), content)
        raise ModelUnavailable(
            f"{named.setting}={named.name!r} looks like a local folder, "
            f"but there is no {lacking} in it."
        )
    return None


def _is_it(folder: Path, content: Content) -> bool:
    """A model without weights is one: it may be loaded with random ones."""
    if content == "model":
        return (folder / "config.json").is_file()
    return has_content(folder, content)


def _name_of(folder: Path) -> str:
    """Return the repository that a folder's files are from, where that can be known."""
    try:
        if fetched := manifest.read(folder):
            return fetched.repository
    except ModelUnavailable:
        log.debug("%s has a manifest of something else", folder)
    in_cache = CACHED.search(str(folder))
    return in_cache[1].replace("--", "/", 1) if in_cache else folder.name


def _from_hub(base_path: Path, named: HubReference, content: Content) -> FoundFiles:
    cache = _writable_cache(base_path)
    own = cache != base_path / VOLUME_CACHE  # the volume's has been looked into
    if own and (found := _cached(cache, "the container's cache", named, content)):
        return found
    listing = hub.listing(named)
    by_path = {file.path: file for file in listing.files}
    if content == "model":
        names = _with_weights(named, listing.commit, by_path, cache)
    elif content == "tokenizer":
        names = hub_files.small(by_path)
    else:
        names = _of_adapter(named, by_path)
    files = [by_path[name] for name in names]
    path = hub.download(named, listing.commit, files, cache=cache)
    try:
        remember(cache, named, listing.commit)
    except OSError as error:  # the next start asks the hub again, no more
        log.warning("%s: its revision could not be noted: %s", named.name, error.strerror)
    return FoundFiles(path, named.name, "the hub", is_local=False)


def _writable_cache(base_path: Path) -> Path:
    """Return the volume's cache, or the container's own where there is no volume to write to."""
    from huggingface_hub import constants

    cache = base_path / VOLUME_CACHE
    if base_path.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            if os.access(cache, os.W_OK):
                return cache
        except OSError:
            log.debug("no %s", cache, exc_info=True)
        log.warning("%s cannot be written: what is fetched stays in this container", cache)
    return Path(constants.HF_HUB_CACHE)


def _with_weights(
    named: HubReference, commit: str, by_path: dict[str, hub.RemoteFile], cache: Path
) -> list[str]:
    index = None
    if INDEX in by_path:
        with naming(named.name):
            index = shards(hub.download(named, commit, [by_path[INDEX]], cache=cache))
    if lost := sorted((index or set()) - by_path.keys()):
        raise ModelUnavailable(f"{named.name} has no {lost[0]}, which its index names.")
    names = hub_files.wanted(by_path, index)
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelUnavailable(f"{hub_files.lack_of_weights(named.name, by_path)}.")
    return names


def _of_adapter(named: HubReference, by_path: Mapping[str, hub.RemoteFile]) -> list[str]:
    if lost := [name for name in hub_files.ADAPTER if name not in by_path]:
        raise ModelUnavailable(f"{named.name} has no {lost[0]}: it is no LoRA adapter.")
    return hub_files.adapter(by_path)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Say in an error of a checkpoint's own files which model it is."""
    try:
        yield
    except ModelUnavailable as error:
        text = str(error)
        raise ModelUnavailable(text if name in text else f"{name}: {text}.") from error
