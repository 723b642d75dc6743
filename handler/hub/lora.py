"""LORA_MODULES: which adapters are named, and where they come from.

A build reads it and a worker does; it knows nothing of what is on a disk.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.errors import BadSetting

NAME = re.compile(r"\w(?!.*--)[\w./-]*")  # two dashes are a slash in a folder's name
SETTING = "LORA_MODULES"
RIGHT = (
    'should be a JSON list such as [{"name": "sql", "path": "org/name"}], or sql=org/name with '
    "blanks between several"
)


@dataclass(frozen=True)
class Wanted:
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


def read(text: str) -> tuple[Wanted, ...]:
    """Read LORA_MODULES: JSON, or the engines' own `name=source`.

    Raises:
        BadSetting: with what would be right.
    """
    text = text.strip()
    try:
        items = json.loads(text) if text[:1] in ("[", "{") else [_pair(t) for t in text.split()]
        wanted = [_wanted(item) for item in (items if isinstance(items, list) else [items])]
    except ValueError as error:
        raise BadSetting(f"{SETTING}={text!r} {RIGHT} ({error}).") from error
    names = [one.name for one in wanted]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise BadSetting(f"{SETTING}={text!r} has two adapters of the name {doubled[0]!r}.")
    return tuple(wanted)


def _pair(text: str) -> dict[str, str]:
    name, separator, source = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} has no =")
    return {"name": name, "path": source}


def _wanted(item: Any) -> Wanted:
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
    return Wanted(name, source, str(revision) if revision else None)
