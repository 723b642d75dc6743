"""The environment → `Settings`, or an error that names each wrong variable; and what is exported.

Settings are read from a mapping that is passed in. `export` alone writes to `os.environ`, for the
libraries and child processes that read it.
"""

import os
from collections.abc import Iterable, Mapping

from pydantic import AliasChoices, ValidationError
from pydantic_settings import EnvSettingsSource

from handler.errors import InvalidSetting
from handler.old_names import translate_old_names
from handler.settings import Settings


class _Environ(EnvSettingsSource):
    """pydantic-settings' source of variables, with a mapping in place of `os.environ`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings, case_sensitive=True, env_ignore_empty=True)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        # Hub forms send blank fields as empty strings; log levels may be in any case.
        return {
            name: value.strip().upper() if name == "LOG_LEVEL" else value.strip()
            for name, value in self._environ.items()
            if value.strip()
        }


def setting_variables() -> dict[str, tuple[str, ...]]:
    """Return the variables of each field of `Settings`, the preferred one first."""
    names = {}
    for field, info in Settings.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names[field] = tuple(str(choice) for choice in choices)
    return names


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the worker's settings.

    Raises:
        InvalidSetting: every invalid variable with its value and what it must be.
    """
    environ, _ = translate_old_names(environ.get("ENGINE", "").strip() or "vllm", environ)
    try:
        settings = Settings(**_Environ(environ)())
    except ValidationError as error:
        raise InvalidSetting("\n".join(_complaints(error, environ))) from error
    if settings.serve_mode == "queue" and settings.job_url is None:
        raise InvalidSetting(
            "SERVE_MODE='queue' needs RUNPOD_WEBHOOK_GET_JOB, which the platform sets: leave "
            "SERVE_MODE out, or set it to http or local."
        )
    return settings


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


def _complaints(error: ValidationError, environ: Mapping[str, str]) -> list[str]:
    by_variable: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False):
        wrong = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        by_variable.setdefault(str(problem["loc"][0]), []).append(wrong.split(", unable")[0])
    names = setting_variables()
    secrets = names["hf_token"] + names["api_key"]
    return [
        (name if name in secrets else f"{name}={environ.get(name, '')!r}")
        + f" must be {' or '.join(dict.fromkeys(wrong))}."
        for name, wrong in by_variable.items()
    ]
