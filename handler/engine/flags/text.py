"""Flags as users write them: ENGINE_ARGS, and the values of variables."""

import argparse
import json
import re
import shlex
from collections.abc import Collection
from typing import Any

from handler.errors import one_line
from handler.settings.types import parse_bool

# A line continuation, also in a command whose lines a form has joined.
CONTINUATION = re.compile(r"\\\r?\n|(?<!\S)\\(?=\s|$)")
LONG_DASHES = ("—", "–", "\u2212")  # a word processor's replacement of two hyphens
JSON_OBJECT = re.compile(r"\{(?![{%#])")  # not a Jinja template
NOT_JSON = re.compile(r"cannot be converted to <function loads at \w+>")


def split_arguments(text: str) -> list[str]:
    """Split arguments as a shell does.

    Raises:
        ValueError: a quote is not closed, or a flag does not begin with hyphens.
    """
    arguments = shlex.split(CONTINUATION.sub(" ", text))
    for argument in arguments:
        if argument.startswith(LONG_DASHES):
            raise ValueError(f"{argument!r} must begin with two hyphens (--)")
    return arguments


def flag_arguments(action: argparse.Action, value: str) -> list[str]:
    """Return the arguments that give a flag the value of a variable.

    Raises:
        ValueError: the value is invalid; the message says what it must be.
    """
    option = max(action.option_strings, key=len)
    if isinstance(action, argparse.BooleanOptionalAction):
        option = next(name for name in action.option_strings if not name.startswith("--no-"))
        off = "--no-" + option.removeprefix("--")
        return [option if parse_bool(value) else off]
    if action.nargs == 0:
        return [option] if parse_bool(value) else []
    if action.nargs in ("+", "*"):
        items = _list_items(value)
        return [option, *items] if items else []
    if JSON_OBJECT.match(value):
        _check_json(value)
    return [f"{option}={_as_choice(value, choices(action))}"]


def parser_reason(error: Exception) -> str:
    """Return the message of an engine's parser on one line."""
    return NOT_JSON.sub("is not JSON", one_line(str(error)))


def choices(action: argparse.Action) -> Collection[Any]:
    return action.choices if isinstance(action.choices, Collection) else ()


def _as_choice(value: str, known: Collection[Any]) -> str:
    """Return the choice that equals the value apart from case, else the value."""
    if value in known:
        return value
    return next((str(each) for each in known if str(each).lower() == value.lower()), value)


def _check_json(value: str) -> None:
    try:
        json.loads(value)
    except ValueError as error:
        raise ValueError(f"must be a JSON object ({error})") from error


def _list_items(value: str) -> list[str]:
    """Parse a list: JSON, or words between commas or spaces."""
    if value.startswith("["):
        try:
            items = json.loads(value)
        except ValueError as error:
            raise ValueError(f"must be a JSON list ({error})") from error
        return [item if isinstance(item, str) else json.dumps(item) for item in items]
    return [value] if value.startswith("{") else value.replace(",", " ").split()
