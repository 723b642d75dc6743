"""JSON from callers: its type in error texts, and the limit on its nesting.

Python and the engines decode, validate and render JSON recursively, some of it in C++. The limit
also holds for strings that an engine decodes as JSON.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from handler.errors import InvalidInput

MAX_NESTING = 128  # enough for the schema of a tool, which vLLM limits to 64
# Fields with strings that an engine decodes as JSON: earlier tool calls, and schemas.
JSON_TEXT_FIELDS = frozenset({"arguments", "guided_json", "json", "json_schema", "structural_tag"})
CONTAINERS = frozenset({dict, list})
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_STRING_OR_BRACKET = re.compile(_STRING.pattern + r"|[\[\]{}]", re.DOTALL)


def loads(text: str) -> Any:
    """Decode JSON of any depth.

    If it is too deep for Python, the deepest levels become null. The result is still too deep for
    `check_nesting`, which then rejects it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        return json.loads(_cut(text, 2 * MAX_NESTING))


def json_type(value: object) -> str:
    """Return the JSON type of a decoded value for an error text, such as "a string"."""
    if isinstance(value, dict):
        return "an object"
    names = {type(None): "null", str: "a string", list: "a list", bool: "a boolean"}
    return names.get(type(value), "a number")


def shown(value: object) -> str:
    """Return a short text for a value in an error text, whatever its depth."""
    return json_type(value) if isinstance(value, dict | list) else repr(value)


def check_nesting(body: Mapping[str, Any]) -> None:
    """Reject a body that is nested too deeply.

    Raises:
        InvalidInput: with the field's name.
    """
    for name, value in body.items():
        level, depth = [(name, value)], 1
        while level:
            if depth > MAX_NESTING or any(_is_deep_text(*each) for each in level):
                raise InvalidInput(
                    f"{name!r} is nested too deeply: objects and lists may nest at most "
                    f"{MAX_NESTING} levels.",
                    name,
                )
            level = [inner for _, outer in level for inner in _inner_values(outer)]
            depth += 1


def _inner_values(value: Any) -> list[tuple[str, Any]]:
    """Return the containers and JSON strings directly below a value, with their names."""
    if isinstance(value, list):
        if CONTAINERS.isdisjoint(map(type, value)):  # fast for a million token ids
            return []
        return [("", inner) for inner in value if type(inner) in CONTAINERS]
    if isinstance(value, dict):
        return [
            (name, inner)
            for name, inner in value.items()
            if type(inner) in CONTAINERS or name in JSON_TEXT_FIELDS
        ]
    return []


def _cut(text: str, max_depth: int) -> str:
    """Return JSON with null for every value below `max_depth`."""
    kept, begin, depth = [], 0, 0
    for token in _STRING_OR_BRACKET.finditer(text):
        if token[0] in "{[":
            depth += 1
            if depth == max_depth + 1:
                kept.append(text[begin : token.start()] + "null")
        elif token[0] in "}]":
            if depth == max_depth + 1:
                begin = token.end()
            depth -= 1
    return "".join(kept) + text[begin:]


def _is_deep_text(name: str, value: Any) -> bool:
    if not isinstance(value, str) or name not in JSON_TEXT_FIELDS:
        return False
    if value.count("{") + value.count("[") <= MAX_NESTING:
        return False
    depth = deepest = 0
    for character in _STRING.sub("", value):
        if character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest > MAX_NESTING
