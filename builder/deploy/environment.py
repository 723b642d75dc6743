"""The environment of an endpoint's workers: given, kept and secret variables."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from builder.cli import STARS
from builder.errors import InvalidArgument
from handler.settings.environ import load_settings, setting_variables

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_NAME = re.compile(r"(TOKEN|KEYS?|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?)$")
URL_WITH_PASSWORD = re.compile(r"://[^/\s@]*:[^/\s@]+@")
# The platform replaces it with a secret of the account when a worker starts.
SECRET_REFERENCE = re.compile(r"\{\{\s*RUNPOD_SECRET_\w+\s*\}\}")
SETTINGS = setting_variables()
MODEL_VARIABLES = (*SETTINGS["served_model_name"], *SETTINGS["model_name"])
PLATFORM_VARIABLES = {"RUNPOD_WEBHOOK_GET_JOB": "https://api.runpod.ai/"}  # a queue needs it


@dataclass(frozen=True)
class WorkerEnvironment:
    """The variables of an endpoint's workers.

    Attributes:
        values: by name.
        before: the values of the existing endpoint.
        public: names and values that may be printed. The template has only these: others may
            create endpoints from it, and a later deployment reads which values are not secret.
    """

    values: Mapping[str, str]
    before: Mapping[str, str]
    public: frozenset[tuple[str, str]]

    def public_values(self) -> dict[str, str]:
        return {name: value for name, value in self.values.items() if (name, value) in self.public}

    def secrets(self) -> set[str]:
        """Return the values that must never be printed."""
        return {value for _, value in (self.values.items() | self.before.items()) - self.public}

    def shown(self, name: str, value: str) -> str:
        return value if (name, value) in self.public else STARS

    def check(self) -> None:
        """Check the settings as a worker's start does; flags are checked by the engine only.

        Raises:
            handler.errors.InvalidSetting: a worker would refuse the value.
        """
        load_settings(PLATFORM_VARIABLES | self._literal_values())

    @property
    def model(self) -> str:
        """The model's name for callers; MODEL if it is not in the environment."""
        given = {n: v for n, v in self._literal_values().items() if n in MODEL_VARIABLES}
        settings = load_settings(given)
        return (*settings.model_names, settings.model_name or "MODEL")[0]

    def _literal_values(self) -> dict[str, str]:
        return {name: value for name, value in self.values.items() if not is_reference(value)}


def worker_environment(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    base: Mapping[str, str],
    current: Mapping[str, str],
    template: Mapping[str, str] | None,
) -> WorkerEnvironment:
    """Combine the arguments with the existing endpoint's environment.

    Args:
        arguments: NAME=VALUE, NAME (with this process's value, a secret) or NAME= (to remove it).
        environ: the environment of this process.
        base: variables of a preset or --model; if any, only secrets are kept of `current`.
        current: the environment of the existing endpoint.
        template: the public values of the existing endpoint, None if it has no template.

    Raises:
        InvalidArgument: an argument has another form, or exposes a secret.
    """
    given, private = dict(base), set[str]()
    for argument in arguments:
        name, has_value, value = argument.partition("=")
        if not VARIABLE.fullmatch(name):
            raise InvalidArgument(f"--env {argument!r} must be NAME=VALUE, NAME or NAME=.")
        if value and is_secret(name, value):
            raise InvalidArgument(
                f"--env {name}=… exposes a secret in the list of processes: export {name} and "
                f"give --env {name}, or --env '{name}={{{{ RUNPOD_SECRET_name }}}}'."
            )
        if not has_value:
            value = environ.get(name, "").strip()
            if not value:
                raise InvalidArgument(f"--env {name}: export {name} first.")
            private.add(name)
        given[name] = value

    kept = {n: v for n, v in current.items() if not base or is_secret(n, v) or is_reference(v)}
    values = {name: value for name, value in (kept | given).items() if value}
    if template is None:
        template = {name: value for name, value in current.items() if name in known_variables()}
    openly = (template.items() | given.items()) - {(name, given[name]) for name in private}
    public = {(name, value) for name, value in openly if not is_secret(name, value)}
    for name, value in values.items() | current.items():
        if name in MODEL_VARIABLES or is_reference(value):  # callers must know the model's name
            public.add((name, value))
    return WorkerEnvironment(values, current, frozenset(public))


@cache
def known_variables() -> frozenset[str]:
    """Return the worker's settings and the flags of both engines, as variables."""
    flags = json.loads((files("handler") / "engine" / "flags" / "flag_names.json").read_bytes())
    lists = [*SETTINGS.values(), *(names for engine in flags.values() for names in engine.values())]
    return frozenset(name for names in lists for name in names)


def is_secret(name: str, value: str) -> bool:
    """Whether the name or the value looks like a secret."""
    if is_reference(value):
        return False
    if name in SETTINGS["hf_token"] + SETTINGS["api_key"] or URL_WITH_PASSWORD.search(value):
        return True
    return name not in known_variables() and SECRET_NAME.search(name.upper()) is not None


def is_reference(value: str) -> bool:
    return SECRET_REFERENCE.fullmatch(value) is not None
