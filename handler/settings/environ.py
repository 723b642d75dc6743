"""The environment → `Settings`, or an error that names each wrong variable; and what is exported.

Settings are read from a mapping that is passed in. Only the `export` functions write to
`os.environ`, for the libraries and child processes that read it.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from pydantic import AliasChoices, ValidationError
from pydantic_settings import EnvSettingsSource

from handler.errors import InvalidSetting
from handler.settings.fields import Settings
from handler.settings.old_names import translate_old_names
from handler.settings.types import LOG_LEVEL_NAMES, parse_log_level
from handler.settings.variables import QUOTES, clean_value, is_no_value, is_zero

# Fields for which a word that usually says "not set" is a value.
WORDS_WITH_MEANING = {
    "quantization": "none",
    "speculative_method": "none",
    "cors_origins": "null",  # the origin of a local file
}
REALTIME_PORT = "RUNPOD_REALTIME_PORT"  # the SDK reads it

# Variables that the engines, their libraries and the SDK read for themselves.
LIBRARY_PREFIXES = tuple(
    "VLLM_ SGLANG_ HF_ HUGGING_FACE_ CUDA_ NCCL_ OMP_ TORCH_ PYTORCH_ TRITON_ FLASHINFER_ "
    "TOKENIZERS_ RUNPOD_".split()
)


@dataclass(frozen=True)
class ValueRules:
    """Which variables a reader takes, and how it reads two of their values.

    Attributes:
        names: all of them; None or null in any case means that one is not set.
        positive: those whose values are above zero: a form sends 0 for a blank number field.
        words: the variables for which this word is a value.
    """

    names: Collection[str]
    positive: Collection[str]
    words: Mapping[str, str]

    def unset_reason(self, name: str, value: str) -> str | None:
        """Return why a value says that the variable is not set, None if it is a value."""
        if is_no_value(value) and self.words.get(name) != value:
            return "the word for no value"
        if name in self.positive and is_zero(value):
            return "must be above zero"
        return None


class CleanEnviron(NamedTuple):
    """Variables as they are meant, and those that say that they are not set."""

    variables: dict[str, str]
    unset: list[str]


class _Environ(EnvSettingsSource):
    """pydantic-settings' source of variables, with a mapping in place of `os.environ`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings, case_sensitive=True, env_ignore_empty=True)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name: value for name, value in self._environ.items() if value}


def setting_variables() -> dict[str, tuple[str, ...]]:
    """Return the variables of each field of `Settings`, the preferred one first."""
    names = {}
    for field, info in Settings.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names[field] = tuple(str(choice) for choice in choices)
    return names


@cache
def setting_rules() -> ValueRules:
    """Return how the worker's own variables are read."""
    names = setting_variables()
    positive = [field for field in names if not _takes(field, "0") and _takes(field, "1")]
    return ValueRules(
        names=frozenset(name for each in names.values() for name in each),
        positive=frozenset(name for field in positive for name in names[field]),
        words={name: word for field, word in WORDS_WITH_MEANING.items() for name in names[field]},
    )


def clean_environ(environ: Mapping[str, str], *rules: ValueRules) -> CleanEnviron:
    """Return the variables without quotes and blanks around their values.

    Args:
        environ: the variables as they came.
        rules: of those who read them, the first that knows a name decides; what it takes as not
            set is left out, and listed.
    """
    variables = {name: clean_value(value) for name, value in environ.items()}
    unset = []
    for name, value in sorted(variables.items()):
        rule = next((each for each in rules if name in each.names), None)
        if rule and (reason := rule.unset_reason(name, value)):
            unset.append(f"{name}={value!r} ({reason})")
            del variables[name]
    return CleanEnviron(variables, unset)


def log_level_of(environ: Mapping[str, str], variable: str, usual: str) -> str:
    """Return the level in an engine's own variable, or the usual one.

    Raises:
        InvalidSetting: it is none that Python's logging knows.
    """
    level = parse_log_level(clean_value(environ.get(variable, "")) or usual)
    if level not in LOG_LEVEL_NAMES:
        known = ", ".join(LOG_LEVEL_NAMES)
        raise InvalidSetting(f"{variable}={environ[variable]!r} must be one of {known}.")
    return level


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the worker's settings.

    Raises:
        InvalidSetting: every invalid variable with its value and what it must be; or two names of
            one setting have different values.
    """
    engine = clean_value(environ.get("ENGINE", "")).lower()
    environ, _ = translate_old_names(engine or "vllm", environ)
    variables = clean_environ(environ, setting_rules()).variables
    if twice := _settings_with_two_values(variables):
        raise InvalidSetting("\n".join(twice))
    try:
        settings = Settings(**_Environ(variables)())
    except ValidationError as error:
        raise InvalidSetting("\n".join(_complaints(error, environ))) from error
    if settings.serve_mode == "queue" and settings.job_url is None:
        raise InvalidSetting(
            "SERVE_MODE='queue' needs RUNPOD_WEBHOOK_GET_JOB, which the platform sets: leave "
            "SERVE_MODE out, or set it to http or local."
        )
    realtime_port = variables.get(REALTIME_PORT, "")
    if settings.serve_mode in ("auto", "queue") and realtime_port and not is_zero(realtime_port):
        raise InvalidSetting(
            f"{REALTIME_PORT}={realtime_port!r} asks for the SDK's own HTTP server, which has no "
            "OpenAI routes: leave it out, or set SERVE_MODE=http and PORT for the worker's server."
        )
    return settings


def readable_settings(environ: Mapping[str, str]) -> tuple[Settings, frozenset[str]]:
    """Return the settings that can be read, for a worker whose start has failed.

    Args:
        environ: may be what the start failed with.

    Returns:
        The settings, with the defaults of those whose values are invalid, and the fields of these.
    """
    variables = dict(clean_environ(environ, setting_rules()).variables)
    unreadable = set()
    for field, names in setting_variables().items():
        for name in names:
            if not _takes_value(name, variables.get(name, "")):
                del variables[name]
                unreadable.add(field)
    return Settings(**_Environ(variables)()), frozenset(unreadable)


def export_unquoted(environ: Mapping[str, str], cleaned: Mapping[str, str]) -> None:
    """Take the quotes of an env file off the variables that libraries read for themselves.

    Args:
        environ: this process's variables as they came.
        cleaned: the same ones as `clean_environ` returns them.
    """
    for name, value in dict(environ).items():
        if name.startswith(LIBRARY_PREFIXES) and value.strip()[:1] in QUOTES:
            os.environ[name] = cleaned.get(name, "")


def export(variables: Mapping[str, str], *, remove: Iterable[str] = ()) -> None:
    """Set variables of this process and its children, except those that the user has set.

    Args:
        variables: the defaults.
        remove: names that are taken out.
    """
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    for name in remove:
        os.environ.pop(name, None)


def given_name(field: str, environ: Mapping[str, str]) -> str:
    """Return the variable that sets a field, the preferred one where none does."""
    names = setting_variables()[field]
    return next((name for name in names if environ.get(name)), names[0])


def _settings_with_two_values(environ: Mapping[str, str]) -> list[str]:
    complaints = []
    for names in setting_variables().values():
        given = [name for name in names if environ.get(name)]
        if len({environ[name] for name in given}) > 1:
            complaints.append(f"{' and '.join(given)} are one setting with two values: remove one.")
    return complaints


def _takes(field: str, value: str) -> bool:
    """Whether a field takes this value."""
    return _takes_value(setting_variables()[field][0], value)


def _takes_value(variable: str, value: str) -> bool:
    try:
        Settings(**_Environ({variable: value})())
    except ValidationError:
        return False
    return True


def _complaints(error: ValidationError, environ: Mapping[str, str]) -> list[str]:
    by_variable: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False):
        wrong = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        wrong = wrong.removeprefix("must be ").split(", unable")[0]
        by_variable.setdefault(str(problem["loc"][0]), []).append(wrong)
    names = setting_variables()
    secrets = names["hf_token"] + names["api_key"]
    return [
        (name if name in secrets else f"{name}={environ.get(name, '')!r}")
        + f" must be {' or '.join(dict.fromkeys(wrong))}."
        for name, wrong in by_variable.items()
    ]
