"""LoRA adapters: which ones the settings name, and where they lie.

Each is served under its own name, beside the model: a job chooses it by `model`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.errors import InvalidSetting
from handler.model import hub_files, manifest
from handler.model.checkpoint import json_object
from handler.model.reference import HubReference
from handler.model.sources import BAKED, find, naming

if TYPE_CHECKING:  # the image's fetch stage has no settings
    from handler.settings import Settings


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter on disk.

    Attributes:
        name: what callers use.
        path: the folder with adapter_config.json.
        rank: the largest rank of its matrices.
        is_local: whether it was found without asking the hub.
    """

    name: str
    path: Path
    rank: int
    is_local: bool


def locate(settings: Settings, baked: Path = BAKED) -> tuple[LoraAdapter, ...]:
    """Find the adapters that the settings name; without the setting those of the image.

    Raises:
        InvalidSetting, ModelUnavailable: see `places.find`.
    """
    if settings.lora_modules is None:
        folders = [folder for folder in sorted(baked.glob("lora/[!.]*")) if manifest.read(folder)]
        return tuple(_adapter(folder.name.replace("--", "/"), folder, True) for folder in folders)
    adapters = []
    for one in read(settings.lora_modules):
        found = find(settings, baked, HubReference(one.source, one.revision, SETTING), "lora")
        adapters.append(_adapter(one.name, found.path, found.is_local))
    return tuple(adapters)


def check_names(adapters: Collection[LoraAdapter], taken: Collection[str | None]) -> None:
    """See that each adapter has a name of its own.

    Raises:
        InvalidSetting: one is called as the model is.
    """
    for adapter in adapters:
        if adapter.name in taken:
            raise InvalidSetting(f"{SETTING}: {adapter.name!r} is the model's name; take another.")


def _adapter(name: str, path: Path, is_local: bool) -> LoraAdapter:
    with naming(name):
        config = json_object(path / hub_files.ADAPTER[0])
    ranks = [config.get("r"), *dict(config.get("rank_pattern") or {}).values()]
    known = [rank for rank in ranks if isinstance(rank, int)]
    if not known:
        raise InvalidSetting(f"{SETTING}: {name} has no rank `r` in its adapter_config.json.")
    return LoraAdapter(name, path, max(known), is_local)


NAME = re.compile(r"\w(?!.*--)[\w./-]*")  # two dashes are a slash in a folder's name
SETTING = "LORA_MODULES"
RIGHT = (
    'should be a JSON list such as [{"name": "sql", "path": "org/name"}], or sql=org/name with '
    "blanks between several"
)


@dataclass(frozen=True)
class LoraSpec:
    """An adapter as the settings name it.

    Attributes:
        name: what callers use.
        source: a repository or a folder.
        revision: branch, tag or commit; None is `main`.
    """

    name: str
    source: str
    revision: str | None = None

    def folder_name(self) -> str:
        """Return the name of its folder in an image."""
        return self.name.replace("/", "--")


def read(text: str) -> tuple[LoraSpec, ...]:
    """Read LORA_MODULES: JSON, or the engines' own `name=source`.

    Raises:
        InvalidSetting: with what would be right.
    """
    text = text.strip()
    try:
        items = json.loads(text) if text[:1] in ("[", "{") else [_pair(t) for t in text.split()]
        wanted = [_wanted(item) for item in (items if isinstance(items, list) else [items])]
    except ValueError as error:
        raise InvalidSetting(f"{SETTING}={text!r} {RIGHT} ({error}).") from error
    names = [one.name for one in wanted]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise InvalidSetting(f"{SETTING}={text!r} has two adapters of the name {doubled[0]!r}.")
    return tuple(wanted)


def _pair(text: str) -> dict[str, str]:
    name, separator, source = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} has no =")
    return {"name": name, "path": source}


def _wanted(item: Any) -> LoraSpec:
    if not isinstance(item, Mapping):
        raise ValueError(f"{item!r} is no object")
    unknown = set(item) - {"name", "path", "repository", "revision", "base_model_name"}
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]!r} is not known")
    name, source = item.get("name"), item.get("path") or item.get("repository")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name")
    if not isinstance(source, str) or not source:
        raise ValueError(f"{name} has no path")
    revision = item.get("revision")
    return LoraSpec(name, source, str(revision) if revision else None)
