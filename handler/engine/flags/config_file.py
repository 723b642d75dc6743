"""A YAML file of engine flags, as in `vllm serve --config` and `sglang serve --config`.

Each key is read as the flag's variable, so its value is checked like any setting. Variables
override the file, and ENGINE_ARGS overrides both, like a command line of the engines.
"""

import difflib
import json
import logging
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.engine.flags.aliases import ALIASES, NO_SERVER, NOT_PASSED_ON, SERVER_ONLY
from handler.engine.flags.text import split_arguments
from handler.errors import InvalidSetting, is_lasting, one_line
from handler.settings.environ import setting_variables

log = logging.getLogger(__name__)

VARIABLES = ("ENGINE_CONFIG_FILE", "VLLM_CONFIG_FILE")
FLAG = "--config"
SUFFIXES = (".yaml", ".yml", ".json")  # the engines' own, and JSON, a subset of YAML
# Settings of the worker that are flags of the engine under another name.
SETTING_OF_KEY = {"MODEL": "MODEL_NAME", "REVISION": "MODEL_REVISION"}
SETTINGS = ("SERVED_MODEL_NAME", *SETTING_OF_KEY.values())


@dataclass(frozen=True)
class ConfigFile:
    """The flags in a file.

    Attributes:
        path: as the user gave it.
        values: by variable, as text.
        keys: the file's own spelling, by variable.
    """

    path: str
    values: Mapping[str, str]
    keys: Mapping[str, str]

    def explain(self, message: str) -> str:
        """Put the file's name before each line of an error that is about one of its values."""
        return "\n".join(
            f"{self.path}: {line}" if self._is_about_a_key(line) else line
            for line in message.splitlines()
        )

    def _is_about_a_key(self, line: str) -> bool:
        return line.split("=")[0].split(":")[0] in self.values


def merge_config_file(
    environ: Mapping[str, str], refused: Collection[str]
) -> tuple[dict[str, str], ConfigFile | None]:
    """Return the variables, completed with the file's flags, and the file if there is one.

    The file is named by ENGINE_CONFIG_FILE, or with `--config` in ENGINE_ARGS.

    Args:
        environ: the variables, without those whose value means not set.
        refused: flags that the engines' adapters do not pass on.

    Raises:
        InvalidSetting: two files are named, or the file cannot be read or has a refused flag.
    """
    environ = dict(environ)
    named = {name: environ[name] for name in VARIABLES if environ.get(name)}
    for name in setting_variables()["engine_args"]:
        arguments, path = _take_flag(environ.get(name, ""))
        if _take_flag(arguments)[1] is not None:
            raise InvalidSetting(f"{FLAG} in {name} names two files: give one.")
        if path is not None:
            named[f"{FLAG} in {name}"], environ[name] = path, arguments
    if not named:
        return environ, None
    if len(set(named.values())) > 1:
        raise InvalidSetting(f"{' and '.join(named)} name two files: give one.")
    [(source, path), *_] = named.items()
    file = _read(path, source)
    for name, key in file.keys.items():
        if name.lower() in refused and name not in SETTINGS and name not in SERVER_ONLY:
            raise InvalidSetting(f"{path}: {key} {NOT_PASSED_ON}.")
    groups = [set(names) for names in setting_variables().values()]
    groups += [{alias.vllm, alias.sglang} for alias in ALIASES if alias.sglang]
    given = {name for name in environ if environ[name]}
    given |= {name for group in groups if group & given for name in group}
    given |= SERVER_ONLY
    below = {name: value for name, value in file.values.items() if name not in given}
    used = ConfigFile(path, below, file.keys)
    return {**environ, **below, VARIABLES[0]: path}, used


def refuse_unknown_keys(environ: Mapping[str, str], known: Collection[str], engine: str) -> None:
    """Refuse a key of the file that is not a flag.

    An unknown variable may belong to another program; a key of this file can only be a flag.

    Raises:
        InvalidSetting: names the file, the key and a similar flag.
    """
    path = next((environ[name] for name in VARIABLES if environ.get(name)), None)
    if path is None:
        return
    for name, key in _read(path, VARIABLES[0]).keys.items():
        if name in SERVER_ONLY:
            log.warning("%s: %s %s", path, key, NO_SERVER)
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            advice = f": did you mean {near[0].lower().replace('_', '-')}?" if near else "."
            raise InvalidSetting(f"{path}: {key} is not a flag of {engine}{advice}")


def _take_flag(text: str) -> tuple[str, str | None]:
    """Return ENGINE_ARGS without its first `--config`, and the path that it gives."""
    try:
        arguments = split_arguments(text)
    except ValueError:
        return text, None  # `EngineFlags.from_text` says what is wrong
    for index, argument in enumerate(arguments):
        name, separator, value = argument.partition("=")
        if name == FLAG:
            end = index + (1 if separator else 2)
            value = value if separator else "".join(arguments[index + 1 : end])
            return shlex.join(arguments[:index] + arguments[end:]), value
    return text, None


def _read(path: str, source: str) -> ConfigFile:
    import yaml  # part of the engine's packages, which are imported later

    file = Path(path).expanduser()
    if file.suffix.lower() not in SUFFIXES or not file.is_file():
        raise InvalidSetting(
            f"{source}: {path!r} must be an existing file of flags ({', '.join(SUFFIXES)})."
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
        content, tree = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidSetting(
            f"{path} cannot be read: {one_line(str(error))}.", lasting=is_lasting(error)
        ) from error
    if not isinstance(content, dict | None):
        raise InvalidSetting(f"{path} must have a flag and its value on each line.")
    spelled = [key.value for key, _ in tree.value] if content else []
    if twice := [key for key in spelled if spelled.count(key) > 1]:
        raise InvalidSetting(f"{path} has {twice[0]} twice: remove one.")
    values: dict[str, str] = {}
    keys: dict[str, str] = {}
    for key, value in (content or {}).items():
        name = str(key).removeprefix("--").replace("-", "_").upper()
        name = SETTING_OF_KEY.get(name, name)
        if name in values:
            raise InvalidSetting(f"{path}: {keys[name]} and {key} are one flag: remove one.")
        values[name], keys[name] = _text(value), str(key)
    return ConfigFile(path, values, keys)


def _text(value: Any) -> str:
    """Return a value as the text of a variable."""
    if value is None:
        return ""
    if isinstance(value, bool | dict | list):
        return json.dumps(value, default=str)
    return str(value)
