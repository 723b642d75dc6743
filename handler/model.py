"""Where the weights are. Looked for in this order, and the first place that has them is taken:

1. baked into the image, outside every path that a volume can be mounted over;
2. the platform's cache of models, on its mount;
3. a local folder;
4. the hub cache on the network volume;
5. the hub, whose files go into that cache.

The name that callers use is the repository's, wherever its files lie. A draft model and another
tokenizer are found the same way.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handler import manifest
from handler.checkpoint import INDEX, check_quantization, has_weights, quantization_of, shards
from handler.engine import speculation
from handler.errors import BadSetting, ModelUnavailable
from handler.hub import choice, client
from handler.hub.cache import cached, remember
from handler.hub.reference import Reference
from handler.settings import Settings

log = logging.getLogger(__name__)

BAKED = Path("/opt/models")  # not below /runpod-volume or /workspace, where volumes are mounted
KINDS = ("model", "draft", "tokenizer")
PLATFORM_CACHE = Path("/runpod-volume/huggingface-cache/hub")
VOLUME_CACHE = Path("huggingface-cache/hub")  # below BASE_PATH
CACHED = re.compile(r"/models--([^/]+)/snapshots/[^/]+$")


@dataclass(frozen=True)
class Model:
    """A checkpoint on disk.

    Attributes:
        path: the folder with config.json.
        name: the repository's name, or the folder's.
        quantization: the method in the checkpoint's own config, None for an unquantized one.
        source: where it was found, for the log.
        is_local: whether it, its tokenizer and its draft were found without asking the hub.
        tokenizer: the folder of another tokenizer than its own, or None.
        draft: the folder of the draft model for speculative decoding, or None.
    """

    path: Path
    name: str
    quantization: str | None
    source: str
    is_local: bool = True
    tokenizer: Path | None = None
    draft: Path | None = None

    def has_weights(self) -> bool:
        """Say whether a file of weights lies in the folder."""
        return has_weights(self.path)


@dataclass(frozen=True)
class Found:
    """A folder with the files of a repository, and where it was found."""

    path: Path
    name: str
    source: str
    is_local: bool = True


def locate(settings: Settings, baked: Path = BAKED) -> Model:
    """Find the weights that the settings name, fetching them from the hub if need be.

    Raises:
        BadSetting: MODEL_NAME is missing, or QUANTIZATION contradicts the checkpoint.
        ModelUnavailable: they are nowhere, with the hub's reason in one sentence.
    """
    found = _model(settings, baked)
    others = [_tokenizer(settings, baked, found), _draft(settings, baked)]
    with _naming(found.name):
        quantization = quantization_of(found.path)
    check_quantization(settings.quantization, quantization, found.name)
    if others[1]:
        with _naming(others[1].name):
            speculation.check_vocabulary(others[1].name, others[1].path, found.path)
    tokenizer, draft = (other.path if other else None for other in others)
    return Model(
        found.path,
        found.name,
        quantization,
        found.source,
        is_local=all(other.is_local for other in (found, *others) if other),
        tokenizer=tokenizer,
        draft=draft,
    )


def _model(settings: Settings, baked: Path) -> Found:
    name, in_image = settings.model_name, manifest.read(baked / "model")
    if name is None:
        if in_image is None:
            raise BadSetting(
                "MODEL_NAME is not set: give a hub repository such as "
                "Qwen/Qwen2.5-7B-Instruct-AWQ or a local folder."
            )
        name = in_image.repository
    elif in_image and name != in_image.repository:
        log.warning("MODEL_NAME=%s is not the model in the image, %s", name, in_image.repository)
    return _find(settings, baked, Reference(name, settings.model_revision))


def _tokenizer(settings: Settings, baked: Path, model: Found) -> Found | None:
    """Find TOKENIZER_NAME; without it a tokenizer that was baked with the model is meant."""
    name, revision = settings.tokenizer_name, settings.tokenizer_revision
    if name is None:
        in_image = manifest.read(baked / "tokenizer")
        if in_image is None or model.path != baked / "model":
            return None
        name = in_image.repository
    return _find(settings, baked, Reference(name, revision, "TOKENIZER_NAME"), weights=False)


def _draft(settings: Settings, baked: Path) -> Found | None:
    """Find the draft model that the settings name; without a name the baked one is meant."""
    method, config = settings.speculative_method, settings.speculative_config
    speculation.check(method, settings.speculative_model, settings.num_speculative_tokens, config)
    if config:
        named = speculation.model_in(config)
        return _find(settings, baked, Reference(*named, "SPECULATIVE_CONFIG")) if named else None
    if method not in speculation.WITH_MODEL:
        return None
    name, revision = settings.speculative_model, settings.speculative_model_revision
    if name is None:
        in_image = manifest.read(baked / "draft")
        if in_image is None:
            raise BadSetting(
                f"SPECULATIVE_METHOD={method} needs a SPECULATIVE_MODEL, or an image that was "
                "built with a DRAFT_MODEL_NAME."
            )
        name = in_image.repository
    return _find(settings, baked, Reference(name, revision, "SPECULATIVE_MODEL"))


def _find(settings: Settings, baked: Path, named: Reference, weights: bool = True) -> Found:
    named = Reference(named.name, named.revision, named.setting, settings.hf_token)
    try:
        return (
            _baked(baked, named, weights)
            or _cached(PLATFORM_CACHE, "the platform's cache", named, weights)
            or _local(named, weights)
            or _cached(settings.base_path / VOLUME_CACHE, "the volume", named, weights)
            or _from_hub(settings.base_path, named, weights)
        )
    except OSError as error:  # a name too long for a file, a folder that may not be read
        shown = named.name if len(named.name) < 100 else f"{named.name[:100]}…"
        raise BadSetting(f"{named.setting}={shown!r}: {error.strerror or error}.") from error


def _baked(baked: Path, named: Reference, weights: bool) -> Found | None:
    for kind in KINDS:
        folder = baked / kind
        there = manifest.read(folder)
        if there is None or there.repository != named.name or (weights and kind == "tokenizer"):
            continue
        if named.revision in (None, there.revision, there.commit):
            there.check(folder)
            return Found(folder, there.repository, f"the image, commit {there.commit[:12]}")
        log.warning(
            "%s=%s was asked for, the image holds commit %s of %s",
            *(named.revision_setting, named.revision, there.commit, there.repository),
        )
    return None


def _cached(cache: Path, source: str, named: Reference, weights: bool) -> Found | None:
    path = cached(cache, named, weights)
    return Found(path, named.name, source) if path else None


def _local(named: Reference, weights: bool) -> Found | None:
    folder = Path(os.path.expanduser(named.name))
    if (folder / "config.json").is_file() if weights else _has_tokenizer(folder):
        folder = folder.resolve()
        return Found(folder, _name_of(folder), "a local folder")
    if folder.is_dir() or named.name.startswith(("/", "./", "../", "~")):
        lacking = "config.json" if weights else "tokenizer"
        raise ModelUnavailable(
            f"{named.setting}={named.name!r} looks like a local folder, "
            f"but there is no {lacking} in it."
        )
    return None


def _has_tokenizer(folder: Path) -> bool:
    return folder.is_dir() and choice.has_tokenizer(path.name for path in folder.iterdir())


def _name_of(folder: Path) -> str:
    """Return the repository that a folder's files are from, where that can be known."""
    try:
        if fetched := manifest.read(folder):
            return fetched.repository
    except ModelUnavailable:
        log.debug("%s has a manifest of something else", folder)
    in_cache = CACHED.search(str(folder))
    return in_cache[1].replace("--", "/", 1) if in_cache else folder.name


def _from_hub(base_path: Path, named: Reference, weights: bool) -> Found:
    cache = _writable_cache(base_path)
    own = cache != base_path / VOLUME_CACHE  # the volume's has been looked into
    if own and (found := _cached(cache, "the container's cache", named, weights)):
        return found
    listing = client.listing(named)
    by_path = {file.path: file for file in listing.files}
    if weights:
        names = _with_weights(named, listing.commit, by_path, cache)
    else:
        names = choice.small(by_path)
    files = [by_path[name] for name in names]
    path = client.download(named, listing.commit, files, cache=cache)
    try:
        remember(cache, named, listing.commit)
    except OSError as error:  # the next start asks the hub again, no more
        log.warning("%s: its revision could not be noted: %s", named.name, error.strerror)
    return Found(path, named.name, "the hub", is_local=False)


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
    named: Reference, commit: str, by_path: dict[str, client.RemoteFile], cache: Path
) -> list[str]:
    index = None
    if INDEX in by_path:
        with _naming(named.name):
            index = shards(client.download(named, commit, [by_path[INDEX]], cache=cache))
    if lost := sorted((index or set()) - by_path.keys()):
        raise ModelUnavailable(f"{named.name} has no {lost[0]}, which its index names.")
    names = choice.wanted(by_path, index)
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelUnavailable(f"{choice.lack_of_weights(named.name, by_path)}.")
    return names


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say in an error of a checkpoint's own files which model it is."""
    try:
        yield
    except ModelUnavailable as error:
        text = str(error)
        raise ModelUnavailable(text if name in text else f"{name}: {text}.") from error
