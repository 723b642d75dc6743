"""LoRA adapters: which ones the settings name, and where they lie.

Each is served under its own name, beside the model: a job chooses it by `model`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from handler.errors import BadSetting
from handler.hub import choice
from handler.hub.lora import SETTING, read
from handler.hub.reference import Reference
from handler.model import manifest
from handler.model.checkpoint import json_object
from handler.model.places import BAKED, find, naming
from handler.settings import Settings


@dataclass(frozen=True)
class Adapter:
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


def locate(settings: Settings, baked: Path = BAKED) -> tuple[Adapter, ...]:
    """Find the adapters that the settings name; without the setting those of the image.

    Raises:
        BadSetting, ModelUnavailable: see `places.find`.
    """
    if settings.lora_modules is None:
        folders = [folder for folder in sorted(baked.glob("lora/[!.]*")) if manifest.read(folder)]
        return tuple(_adapter(folder.name.replace("--", "/"), folder, True) for folder in folders)
    adapters = []
    for one in read(settings.lora_modules):
        found = find(settings, baked, Reference(one.source, one.revision, SETTING), "lora")
        adapters.append(_adapter(one.name, found.path, found.is_local))
    return tuple(adapters)


def check_names(adapters: Collection[Adapter], taken: Collection[str | None]) -> None:
    """See that each adapter has a name of its own.

    Raises:
        BadSetting: one is called as the model is.
    """
    for adapter in adapters:
        if adapter.name in taken:
            raise BadSetting(f"{SETTING}: {adapter.name!r} is the model's name; take another.")


def _adapter(name: str, path: Path, is_local: bool) -> Adapter:
    with naming(name):
        config = json_object(path / choice.ADAPTER[0])
    ranks = [config.get("r"), *dict(config.get("rank_pattern") or {}).values()]
    known = [rank for rank in ranks if isinstance(rank, int)]
    if not known:
        raise BadSetting(f"{SETTING}: {name} has no rank `r` in its adapter_config.json.")
    return Adapter(name, path, max(known), is_local)
