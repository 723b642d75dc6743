"""Environment variables → the engine's flags, by asking the engine's own argument parser.

A variable named as the UPPER_SNAKE form of a flag sets that flag: the worker keeps no list of
flags. Each value goes through the parser alone first, so that an error names its variable. What a
parser does not know, this module does not know either.
"""

import argparse
import difflib
import json
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from handler.errors import InvalidSetting, one_line

YES = frozenset({"1", "true", "yes", "on"})
NO = frozenset({"0", "false", "no", "off"})
NEAR = 0.85  # MAX_MODEL_LENGTH is 0.90 from MAX_MODEL_LEN, TENSOR_PARALLEL 0.86 from its flag
FOREIGN = ("RUNPOD_", "NVIDIA_", "CUDA_", "NCCL_", "PYTHON", "HF_", "VLLM_", "SGLANG_", "PIP_")


class FlagError(Exception):
    """Raised by a parser's `error` method instead of its usual exit."""


class EngineFlags:
    """The flags that a parser takes and the worker passes on.

    Args:
        parser: the engine's; its `error` must raise `FlagError`.
        refused: destinations of flags that are not taken, such as those of an HTTP server.
    """

    def __init__(self, parser: argparse.ArgumentParser, refused: Collection[str]) -> None:
        self._parser = parser
        self._actions: dict[str, argparse.Action] = {}
        self._refused: set[str] = set()
        self._refused_short: set[str] = set()
        for action in parser._actions:
            if action.dest in refused:
                self._refused_short.update(o for o in action.option_strings if o[:2] != "--")
            long_options = [name for name in action.option_strings if name.startswith("--")]
            for option in long_options:
                name = option.removeprefix("--").replace("-", "_").upper()
                if action.dest in refused:
                    self._refused.add(name)
                elif not _turns_off(parser, action, option):
                    self._actions[name] = action

    @property
    def names(self) -> frozenset[str]:
        """The variables' names that reach the engine."""
        return frozenset(self._actions)

    def choices(self, name: str) -> list[Any]:
        """Return the values that flag `name` may have, in order."""
        return sorted(self._actions[name].choices or ())

    def default(self, name: str) -> Any:
        """Return what flag `name` is unless it is set."""
        return self._actions[name].default

    def is_off(self, name: str) -> bool:
        """Whether flag `name` is a switch that is off unless it is set."""
        action = self._actions[name]
        undecided = isinstance(action, argparse.BooleanOptionalAction) and action.default is None
        return action.nargs == 0 and not action.default and not undecided

    def from_environ(self, environ: Mapping[str, str], taken: Collection[str]) -> list[str]:
        """Return arguments for the parser from all variables that name a flag.

        Args:
            environ: the variables.
            taken: names that the worker's own settings have taken, to be left out.

        Raises:
            InvalidSetting: names the variable, its value and what the engine accepts.
        """
        arguments: list[str] = []
        for name in sorted(self.names & environ.keys() - set(taken)):
            value = environ[name].strip()
            if value:
                arguments += self.argument(name, value)
        return arguments

    def argument(self, name: str, value: str, variable: str | None = None) -> list[str]:
        """Return the arguments that set flag `name` to `value`, judged by the parser.

        Args:
            name: UPPER_SNAKE name of the flag.
            value: as written in the environment.
            variable: the variable that the user set, when it has another name.

        Raises:
            InvalidSetting: the parser refuses the value.
        """
        arguments = self._spelled(name, value, variable or name)
        try:
            self._parser.parse_args(arguments)
        except (FlagError, ValueError, TypeError) as error:
            # argparse says "argument --dtype: invalid choice: …": the variable's name is enough.
            reason = one_line(str(error))
            reason = reason.split(": ", 1)[-1] if "argument -" in reason else reason
            raise InvalidSetting(f"{variable or name}={value!r}: {reason}") from error
        return arguments

    def _spelled(self, name: str, value: str, variable: str) -> list[str]:
        try:
            return _spell(self._actions[name], variable, value)
        except ValueError as error:
            raise InvalidSetting(f"{variable}={value!r} {error}.") from error

    def from_text(self, text: str) -> list[str]:
        """Return ENGINE_ARGS as arguments.

        Raises:
            InvalidSetting: a quote is not closed, or a flag belongs to what does not run here.
        """
        try:
            arguments = shlex.split(text)
        except ValueError as error:
            raise InvalidSetting(f"ENGINE_ARGS={text!r}: {error}") from error
        for argument in arguments:
            name = argument.split("=")[0].split(".")[0].removeprefix("--").replace("-", "_").upper()
            long = argument.startswith("--") and name in self._refused
            if long or argument in self._refused_short:
                raise InvalidSetting(
                    f"ENGINE_ARGS: {argument.split('=')[0]} is not the engine's to set here: "
                    "the worker has no HTTP server in queue mode and names the model itself."
                )
        return arguments

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parse all arguments together.

        Raises:
            InvalidSetting: what the parser says; only ENGINE_ARGS can still be at fault here.
        """
        try:
            return self._parser.parse_args(arguments)
        except (FlagError, ValueError, TypeError) as error:
            raise InvalidSetting(f"ENGINE_ARGS: {one_line(str(error))}") from error


def unused(
    environ: Mapping[str, str], known: Collection[str], removed: Mapping[str, str]
) -> list[str]:
    """Return one line for each variable that looks meant for the worker and reaches nothing.

    Args:
        environ: the variables.
        known: the names that mean something.
        removed: names that meant something once, each with what to do instead.
    """
    lines = []
    for name in sorted(environ.keys() - set(known)):
        if name in removed:
            lines.append(f"{name} has no effect: {removed[name]}")
        elif not name.startswith(FOREIGN):
            near = difflib.get_close_matches(name, known, n=1, cutoff=NEAR)
            if near:
                lines.append(f"{name} is not a setting and has no effect: did you mean {near[0]}?")
    return lines


def _turns_off(parser: argparse.ArgumentParser, action: argparse.Action, option: str) -> bool:
    """Say whether the option is the other half of a switch, by asking the action.

    That is `--no-x`, and from vLLM 0.33 on also `--disable-x` beside `--enable-x`, or the reverse.
    """
    if not isinstance(action, argparse.BooleanOptionalAction):
        return False
    parsed = argparse.Namespace()
    action(parser, parsed, None, option)
    return not getattr(parsed, action.dest)


def _spell(action: argparse.Action, variable: str, value: str) -> list[str]:
    option = max(action.option_strings, key=len)
    if isinstance(action, argparse.BooleanOptionalAction):
        option = next(name for name in action.option_strings if not name.startswith("--no-"))
        off = "--no-" + option.removeprefix("--")
        return [option if truth(value) else off]
    if action.nargs == 0:
        return [option] if truth(value) else []
    if action.nargs in ("+", "*"):
        return [option, *_words(variable, value)]
    return [f"{option}={value}"]


def truth(value: str) -> bool:
    """Read a switch.

    Raises:
        ValueError: it is neither on nor off.
    """
    if value.lower() not in YES | NO:
        raise ValueError("should be true or false")
    return value.lower() in YES


def _words(variable: str, value: str) -> list[str]:
    """Read a list: JSON, or words between commas or blanks."""
    if value.startswith("["):
        try:
            items = json.loads(value)
        except ValueError as error:
            raise InvalidSetting(f"{variable}={value!r}: not a JSON list ({error})") from error
        return [item if isinstance(item, str) else json.dumps(item) for item in items]
    return [value] if value.startswith("{") else value.replace(",", " ").split()
