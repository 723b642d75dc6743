"""Environment variables and ENGINE_ARGS → the engine's flags, checked by its own parser.

A variable named as the UPPER_SNAKE form of a flag sets that flag, so the worker keeps no list of
flags. Each value is parsed alone first, so that an error can name its variable.
"""

import argparse
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from handler.engine.flags.aliases import (
    ALIAS_NAMES,
    ALIASES,
    NO_SERVER,
    NOT_PASSED_ON,
    SERVER_ONLY,
    TITLES,
    EngineName,
    SettingAlias,
    flag_rules,
    refuse_settings_of_other_engine,
)
from handler.engine.flags.config_file import refuse_unknown_keys
from handler.engine.flags.parallelism import resolve_auto_tensor_parallel
from handler.engine.flags.removed_names import (
    refuse_old_flags,
    removed_names,
    unused_variable_warnings,
)
from handler.engine.flags.text import (
    choices,
    flag_arguments,
    parser_reason,
    split_arguments,
)
from handler.errors import InvalidSetting
from handler.settings.environ import (
    ValueRules,
    clean_environ,
    given_name,
    setting_rules,
    setting_variables,
)
from handler.settings.old_names import OLD_NAMES, translate_old_names

log = logging.getLogger(__name__)


class FlagError(Exception):
    """Raised by a parser's `error` method in place of its usual exit."""


PARSER_ERRORS = (FlagError, ValueError, TypeError)


class EngineFlags:
    """The flags of an engine that users may set.

    Args:
        parser: the engine's; its `error` must raise `FlagError`.
        refused: destinations of flags that users cannot set, such as those of an HTTP server.
        positive: destinations of flags that must be above zero and whose parser does not check it.
    """

    def __init__(
        self,
        parser: argparse.ArgumentParser,
        refused: Collection[str],
        positive: Collection[str] = (),
    ) -> None:
        self._parser = parser
        self._positive = positive
        self._actions: dict[str, argparse.Action] = {}
        self._refused: set[str] = set()
        self._refused_short: set[str] = set()
        for action in parser._actions:
            if action.dest in refused:
                self._refused_short.update(o for o in action.option_strings if o[:2] != "--")
            for option in action.option_strings:
                if not option.startswith("--"):
                    continue
                name = option.removeprefix("--").replace("-", "_").upper()
                if action.dest in refused:
                    self._refused.add(name)
                elif not _turns_off(parser, action, option):
                    self._actions[name] = action

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._actions)

    @property
    def value_rules(self) -> ValueRules:
        """The rules for reading the variables of these flags."""
        return ValueRules(
            names=self.names,
            positive=frozenset(n for n, each in self._actions.items() if self._is_positive(each)),
            words={n: "none" for n, each in self._actions.items() if "none" in choices(each)},
        )

    def _is_positive(self, action: argparse.Action) -> bool:
        numbers = [choice for choice in choices(action) if type(choice) is int]
        return action.dest in self._positive or (bool(numbers) and min(numbers) > 0)

    def choices(self, name: str) -> list[Any]:
        return sorted(self._actions[name].choices or ())

    def default(self, name: str) -> Any:
        return self._actions[name].default

    def is_off(self, name: str) -> bool:
        """Whether the flag is boolean and off by default."""
        action = self._actions[name]
        undecided = isinstance(action, argparse.BooleanOptionalAction) and action.default is None
        return action.nargs == 0 and not action.default and not undecided

    def from_environ(self, environ: Mapping[str, str], excluded: Collection[str]) -> list[str]:
        """Return arguments from all variables that are named like a flag, except the excluded.

        Raises:
            InvalidSetting: names each invalid variable, its value and what the engine accepts.
        """
        arguments: list[str] = []
        complaints = []
        for name in sorted(self.names & environ.keys() - set(excluded)):
            try:
                arguments += self.argument(name, environ[name]) if environ[name] else []
            except InvalidSetting as error:
                complaints.append(str(error))
        if complaints:
            raise InvalidSetting("\n".join(complaints))
        return arguments

    def from_aliases(self, engine: EngineName, environ: Mapping[str, str]) -> list[str]:
        """Return arguments from all variables in `ALIASES`.

        Raises:
            InvalidSetting: the engine has no such value, or two names have different values.
        """
        arguments: list[str] = []
        for alias in ALIASES:
            found: dict[str, list[str]] = {}
            for variable in dict.fromkeys((alias.vllm, alias.sglang)):
                value = environ.get(variable or "", "").strip()
                if variable and value:
                    found[variable] = self._from_alias(engine, alias, variable, value)
            if len({tuple(spelled) for spelled in found.values()}) > 1:
                given = " and ".join(f"{name}={environ[name]!r}" for name in found)
                raise InvalidSetting(f"{given} are one setting with two values: remove one.")
            arguments += next(iter(found.values()), [])
        return arguments

    def _from_alias(
        self, engine: EngineName, alias: SettingAlias, variable: str, value: str
    ) -> list[str]:
        try:
            converted = alias.convert(engine, variable, value)
        except ValueError as error:
            raise InvalidSetting(f"{variable}={value!r} {error} with {TITLES[engine]}.") from error
        name = alias.name(engine)
        return self.argument(name, converted, variable) if name and converted is not None else []

    def argument(self, name: str, value: str, variable: str | None = None) -> list[str]:
        """Return the arguments that set a flag, given by its UPPER_SNAKE name.

        `variable` is the one that the user set, if it has another name.

        Raises:
            InvalidSetting: the engine has no such flag, or its parser refuses the value.
        """
        variable = variable or name
        if name not in self._actions:
            flag = "--" + name.lower().replace("_", "-")
            raise InvalidSetting(
                f"{variable}={value!r}: the installed engine has no flag {flag}, remove it."
            )
        try:
            arguments = flag_arguments(self._actions[name], value)
        except ValueError as error:
            raise InvalidSetting(f"{variable}={value!r} {error}.") from error
        try:
            self._parser.parse_args(arguments)
        except PARSER_ERRORS as error:
            # argparse says "argument --dtype: invalid choice: …": the variable's name is enough.
            reason = parser_reason(error)
            reason = reason.split(": ", 1)[-1] if "argument -" in reason else reason
            raise InvalidSetting(f"{variable}={value!r}: {reason}") from error
        return arguments

    def from_text(self, text: str, variable: str = "ENGINE_ARGS") -> list[str]:
        """Split ENGINE_ARGS into arguments; errors name it `variable`.

        Raises:
            InvalidSetting: a quote is not closed, or a flag is one that the worker refuses.
        """
        try:
            arguments = split_arguments(text)
        except ValueError as error:
            raise InvalidSetting(f"{variable}={text!r}: {error}") from error
        for argument in arguments:
            option = argument.split("=")[0]
            name = option.split(".")[0].removeprefix("--").replace("-", "_").upper()
            is_refused_long = argument.startswith("--") and name in self._refused
            if is_refused_long and name in SERVER_ONLY:
                log.warning("%s: %s %s", variable, option, NO_SERVER)
            elif is_refused_long or argument in self._refused_short:
                raise InvalidSetting(f"{variable}: {option} {NOT_PASSED_ON}.")
        return arguments

    def parse(self, arguments: list[str], variable: str = "ENGINE_ARGS") -> argparse.Namespace:
        """Parse all arguments together; an error can only be in ENGINE_ARGS, named `variable`."""
        try:
            return self._parser.parse_args(arguments)
        except PARSER_ERRORS as error:
            raise InvalidSetting(f"{variable}: {parser_reason(error)}") from error


def parse_engine_flags(
    engine: EngineName,
    flags: EngineFlags,
    *,
    worker_arguments: Sequence[str],
    environ: Mapping[str, str],
    engine_args: str,
    gpu_count: int,
) -> argparse.Namespace:
    """Return the engine's parsed flags, and warn of variables that have no effect.

    In rising priority: the worker's own arguments, aliases, variables named like a flag,
    ENGINE_ARGS. The variables include the flags of a file, see `config_file.py`.

    Args:
        engine: the engine that runs.
        flags: the flags of its parser.
        worker_arguments: made from the worker's settings.
        environ: variables that may name flags.
        engine_args: the setting ENGINE_ARGS.
        gpu_count: of the GPUs that the engine will see, for TENSOR_PARALLEL_SIZE=auto.

    Raises:
        InvalidSetting: the engine does not take a flag or value.
    """
    environ, notes = translate_old_names(engine, environ)
    for note in notes:
        log.info(note)
    removed = removed_names(engine)
    own_names = frozenset(name for names in setting_variables().values() for name in names)
    known = own_names | flags.names | ALIAS_NAMES
    # A worker's setting may have a flag's name; `setting_rules` keeps the words that it accepts.
    environ, unset = clean_environ(environ, setting_rules(), flags.value_rules, flag_rules())
    if unset:
        log.info("read as not set: %s", ", ".join(unset))
    refuse_settings_of_other_engine(engine, environ, known | removed.keys())
    refuse_unknown_keys(environ, known | OLD_NAMES.keys(), TITLES[engine])
    for warning in unused_variable_warnings(environ, known, removed):
        log.warning(warning)
    environ = resolve_auto_tensor_parallel(environ, gpu_count)
    variable = given_name("engine_args", environ)
    more = flags.from_text(engine_args, variable)
    refuse_old_flags(more, flags.names, removed)
    arguments = [
        *worker_arguments,
        *flags.from_aliases(engine, environ),
        *flags.from_environ(environ, own_names | ALIAS_NAMES),
        *more,
    ]
    return flags.parse(arguments, variable)


def _turns_off(parser: argparse.ArgumentParser, action: argparse.Action, option: str) -> bool:
    """Whether the option is the negative form of a boolean flag, found by running the action.

    That is `--no-x`, and from vLLM 0.33 on also `--disable-x` beside `--enable-x`, or the reverse.
    """
    if not isinstance(action, argparse.BooleanOptionalAction):
        return False
    parsed = argparse.Namespace()
    action(parser, parsed, None, option)
    return not getattr(parsed, action.dest)
