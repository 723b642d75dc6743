"""Where the weights are. Looked for in this order, and the first place that has them is taken:

1. baked into the image, outside every path that a volume can be mounted over;
2. the platform's cache of models, on its mount;
3. a local folder;
4. the hub cache on the network volume;
5. the hub, whose files go into that cache.

The name that callers use is the repository's, wherever its files lie.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from handler import manifest
from handler.checkpoint import (
    INDEX,
    check_quantization,
    has_weights,
    quantization_of,
    shards,
)
from handler.errors import BadSetting, ModelUnavailable
from handler.hub import choice, client
from handler.hub.cache import cached
from handler.settings import Settings

log = logging.getLogger(__name__)

BAKED = Path("/opt/models")  # not below /runpod-volume or /workspace, where volumes are mounted
PLATFORM_CACHE = Path("/runpod-volume/huggingface-cache/hub")
VOLUME_CACHE = Path("huggingface-cache/hub")  # below BASE_PATH
MAX_NAME_CHARACTERS = 1000
CACHED = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/[^/]+$")


@dataclass(frozen=True)
class Model:
    """A checkpoint on disk.

    Attributes:
        path: the folder with config.json.
        name: the repository's name, or the folder's.
        quantization: the method in the checkpoint's own config, None for an unquantized one.
        source: where it was found, for the log.
        is_local: whether it was found without asking the hub.
        tokenizer: the folder of another tokenizer than its own, or None.
    """

    path: Path
    name: str
    quantization: str | None
    source: str
    is_local: bool = True
    tokenizer: Path | None = None

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
    name, revision = settings.model_name, settings.model_revision
    found = _baked(baked / "model", name, revision) or _elsewhere(settings, name, revision)
    tokenizer = _tokenizer(settings, baked, found)
    quantization = quantization_of(found.path)
    check_quantization(settings.quantization.lower(), quantization, found.name)
    return Model(
        found.path,
        found.name,
        quantization,
        found.source,
        is_local=found.is_local and (tokenizer is None or tokenizer.is_local),
        tokenizer=tokenizer.path if tokenizer else None,
    )


def locate_draft(settings: Settings, name: str, baked: Path = BAKED) -> Path:
    """Find the draft model of speculative decoding, in the same places as the model.

    Raises:
        ModelUnavailable: it is nowhere.
    """
    return (_baked(baked / "draft", name, None) or _elsewhere(settings, name, None)).path


def _tokenizer(settings: Settings, baked: Path, model: Found) -> Found | None:
    """Find TOKENIZER_NAME; without it a tokenizer that was baked with the model is meant."""
    name, revision = settings.tokenizer_name, settings.tokenizer_revision
    is_baked = model.path == baked / "model"
    found = _baked(baked / "tokenizer", name, revision) if name or is_baked else None
    if found or name is None:
        return found
    return _elsewhere(settings, name, revision, weights=False)


def _baked(folder: Path, name: str | None, revision: str | None) -> Found | None:
    baked = manifest.read(folder)
    if baked is None:
        return None
    if name not in (None, baked.repository):
        log.warning("%s was asked for, the image holds %s", name, baked.repository)
        return None
    if revision not in (None, baked.revision, baked.commit):
        log.warning(
            "revision %s was asked for, the image holds %s of %s",
            *(revision, baked.commit, baked.repository),
        )
        return None
    baked.check(folder)
    return Found(folder, baked.repository, f"the image, commit {baked.commit[:12]}")


def _elsewhere(
    settings: Settings, name: str | None, revision: str | None, weights: bool = True
) -> Found:
    if name is None:
        raise BadSetting(
            "MODEL_NAME is not set: give a hub repository such as Qwen/Qwen2.5-7B-Instruct-AWQ "
            "or a local folder."
        )
    if len(name) > MAX_NAME_CHARACTERS:
        raise BadSetting(f"MODEL_NAME has {len(name)} characters: that is no name.")
    return (
        _cached(PLATFORM_CACHE, "the platform's cache", name, revision, weights)
        or _local(name, weights)
        or _cached(settings.base_path / VOLUME_CACHE, "the volume", name, revision, weights)
        or _from_hub(settings, name, revision, weights)
    )


def _cached(
    cache: Path, source: str, name: str, revision: str | None, weights: bool
) -> Found | None:
    path = cached(cache, name, revision, weights)
    return Found(path, name, source) if path else None


def _local(name: str, weights: bool) -> Found | None:
    folder = Path(name)
    if (folder / "config.json").is_file() if weights else _has_tokenizer(folder):
        folder = folder.resolve()
        return Found(folder, _name_of(folder), "a local folder")
    if folder.is_dir() or name.startswith(("/", "./", "../", "~")):
        variable, lacking = (
            ("MODEL_NAME", "config.json") if weights else ("TOKENIZER_NAME", "tokenizer")
        )
        raise ModelUnavailable(
            f"{variable}={name!r} looks like a local folder, but there is no {lacking} in it."
        )
    return None


def _has_tokenizer(folder: Path) -> bool:
    return folder.is_dir() and choice.has_tokenizer(path.name for path in folder.iterdir())


def _name_of(folder: Path) -> str:
    """Return the repository that a folder's files are from, where that can be known."""
    if fetched := manifest.read(folder):
        return fetched.repository
    in_cache = CACHED.search(str(folder))
    return "/".join(in_cache.groups()) if in_cache else folder.name


def _from_hub(settings: Settings, name: str, revision: str | None, weights: bool) -> Found:
    cache = settings.base_path / VOLUME_CACHE if settings.base_path.is_dir() else None
    if cache is None:
        from huggingface_hub import constants

        own_cache = Path(constants.HF_HUB_CACHE)
        if found := _cached(own_cache, "the container's cache", name, revision, weights):
            return found
    listing = client.listing(name, revision, settings.hf_token)
    by_path = {file.path: file for file in listing.files}
    index = None
    if weights and INDEX in by_path:
        first = client.download(
            name, listing.commit, [by_path[INDEX]], settings.hf_token, cache=cache
        )
        index = shards(first / INDEX)
    names = choice.wanted(by_path, index) if weights else choice.small(by_path)
    path = client.download(
        name,
        revision or "main",
        [by_path[name] for name in names],
        settings.hf_token,
        cache=cache,
    )
    return Found(path, name, "the hub", is_local=False)
