"""LoRA adapters: LORA_MODULES, their files and their ranks.

Each adapter is served beside the model under its own name, which a request gives as `model`.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.errors import InvalidSetting
from handler.model.checkpoint import json_object, model_named_in_errors
from handler.model.hub_files import LORA_FILES
from handler.model.lora_check import check_adapter
from handler.model.manifest import read_manifest
from handler.model.reference import HubReference
from handler.model.sources import FoundFiles, Located, ModelSources, baked_lora_folders

SETTING = "LORA_MODULES"
NAME = re.compile(r"\w(?!.*--)[\w./-]*")  # two dashes stand for a slash in a folder's name
# Keys of vLLM, of SGLang and of other workers.
NAME_KEYS, SOURCE_KEYS = ("name", "lora_name"), ("path", "lora_path", "repository")
OTHER_KEYS = frozenset({"revision", "base_model_name"})
RIGHT_FORM = (
    'must be a JSON list such as [{"name": "sql", "path": "org/name"}], or sql=org/name with '
    "spaces between several"
)


@dataclass(frozen=True)
class LoraSpec:
    """An adapter in LORA_MODULES.

    Attributes:
        name: the `model` of requests.
        source: a repository or a folder.
        revision: branch, tag or commit; None is `main`.
    """

    name: str
    source: str
    revision: str | None = None

    def folder_name(self) -> str:
        """Return the name of its folder in an image."""
        return self.name.replace("/", "--")


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter on disk.

    Attributes:
        name: the `model` of requests.
        path: the folder with adapter_config.json.
        rank: the largest rank of its matrices.
        is_local: whether it was found without the hub.
    """

    name: str
    path: Path
    rank: int
    is_local: bool


def parse_lora_modules(text: str) -> tuple[LoraSpec, ...]:
    """Parse LORA_MODULES: a JSON list or object, or the engines' own `name=path`.

    Raises:
        InvalidSetting: it has neither form.
    """
    text = text.strip()
    try:
        is_json = text.startswith(("[", "{"))
        pairs = [] if is_json else [pair for pair in re.split(r"[\s,]+", text) if pair]
        items = json.loads(text) if is_json else [_pair(pair) for pair in pairs]
        specs = [_spec(item) for item in (items if isinstance(items, list) else [items])]
    except ValueError as error:
        raise InvalidSetting(f"{SETTING}={text!r} {RIGHT_FORM} ({error}).") from error
    names = [spec.name for spec in specs]
    if duplicates := [name for name in names if names.count(name) > 1]:
        raise InvalidSetting(f"{SETTING}={text!r} has two adapters named {duplicates[0]!r}.")
    return tuple(specs)


def locate_adapters(
    lora_modules: str | None, sources: ModelSources, model_names: Collection[str | None] = ()
) -> dict[str, Located]:
    """Return where the adapters in LORA_MODULES are, or without the setting those in the image.

    Args:
        model_names: names that no adapter may have.

    Raises:
        InvalidSetting, ModelUnavailable: see `ModelSources.locate`; or an adapter has the model's
            name.
    """
    if lora_modules is None:
        folders = {
            folder.name.replace("--", "/"): folder
            for folder in baked_lora_folders(sources.baked)
            if read_manifest(folder)
        }
        adapters: dict[str, Located] = {
            name: FoundFiles(folder, name, "the image") for name, folder in folders.items()
        }
    else:
        adapters = {
            spec.name: sources.locate(HubReference(spec.source, spec.revision, SETTING), "lora")
            for spec in parse_lora_modules(lora_modules)
        }
    if taken := [name for name in adapters if name in model_names]:
        raise InvalidSetting(f"{SETTING}: {taken[0]!r} is the model's name; choose another one.")
    return adapters


def read_adapter(name: str, found: FoundFiles, model: Path | None = None) -> LoraAdapter:
    """Check an adapter's files and read its rank.

    Args:
        model: the model's folder.

    Raises:
        InvalidSetting, ModelUnavailable: see `check_adapter`; or the rank is none.
    """
    with model_named_in_errors(name):
        config = json_object(found.path / LORA_FILES[0])
        check_adapter(name, found.path, model)
    patterns = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(patterns.values() if isinstance(patterns, dict) else [patterns])]
    if not all(type(rank) is int and rank > 0 for rank in ranks):
        raise InvalidSetting(
            f"{SETTING}: {name} needs a rank `r` above zero in its adapter_config.json."
        )
    return LoraAdapter(name, found.path, max(ranks), found.is_local)


def _pair(text: str) -> dict[str, str]:
    name, separator, source = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} has no =")
    return {"name": name, "path": source}


def _spec(item: Any) -> LoraSpec:
    if not isinstance(item, Mapping):
        raise ValueError(f"{item!r} must be a JSON object")
    unknown = set(item) - OTHER_KEYS.union(NAME_KEYS, SOURCE_KEYS)
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
    name = next((item[key] for key in NAME_KEYS if item.get(key)), None)
    source = next((item[key] for key in SOURCE_KEYS if item.get(key)), None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"invalid name {name!r}")
    if not isinstance(source, str) or not source:
        raise ValueError(f"{name} has no path")
    revision = item.get("revision")
    return LoraSpec(name, source, str(revision) if revision else None)
