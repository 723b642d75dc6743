"""Fields that constrain the output, translated between the engines' current and former names.

| caller's field          | vLLM                              | SGLang                  |
| ----------------------- | --------------------------------- | ----------------------- |
| guided_json, json_schema | structured_outputs.json           | response_format         |
| guided_json_object      | structured_outputs.json_object    | response_format         |
| guided_regex, regex     | structured_outputs.regex          | regex                   |
| guided_choice           | structured_outputs.choice         | regex                   |
| guided_grammar, ebnf    | structured_outputs.grammar        | ebnf                    |
| structural_tag          | structured_outputs.structural_tag | response_format         |
| structured_outputs      | unchanged                         | each field as above     |

vLLM removed `guided_*` and now ignores these fields. A `response_format` goes to the engine
unchanged.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from handler.errors import InvalidInput

STRUCTURED_OUTPUTS = "structured_outputs"  # vLLM's field
RESPONSE_FORMAT = "response_format"
KINDS = {
    "guided_json": "json",
    "json_schema": "json",
    "guided_json_object": "json_object",
    "guided_regex": "regex",
    "regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "ebnf": "grammar",
    "structural_tag": "structural_tag",
}
NOTHING: tuple[Any, ...] = (None, "", False)
SGLANG_FIELDS = {"regex": "regex", "grammar": "ebnf"}
ENGINE_FIELDS = (STRUCTURED_OUTPUTS, RESPONSE_FORMAT, "regex", "ebnf", "json_schema")


def translate_constraints(path: str, body: dict[str, Any], known: frozenset[str]) -> None:
    """Replace constraints in `body` that the engine does not know by its own fields.

    Raises:
        InvalidInput: there are several constraints, or the path supports none.
    """
    given = {
        name: body.pop(name)
        for name in (*KINDS, STRUCTURED_OUTPUTS)
        if name in body and (name not in known or _is_schema(name, body[name]))
    }
    kinds: dict[str, tuple[str, Any]] = {}
    for name, value in given.items():
        kinds |= _by_kind(name, value)
    if not kinds:
        return
    own = [name for name in ENGINE_FIELDS if name in known and _constrains(body.get(name))]
    if len(kinds) + len(own) > 1:
        names = ", ".join([*given, *own])
        raise InvalidInput(
            f"Send only one of {names}: each constrains the output.", next(iter(given))
        )
    [(kind, (name, value))] = kinds.items()
    if STRUCTURED_OUTPUTS in known:
        body[STRUCTURED_OUTPUTS] = {kind: value}
    elif RESPONSE_FORMAT in known and "regex" in known:
        body.pop(RESPONSE_FORMAT, None)  # plain text
        body |= _for_sglang(name, kind, value)
    else:
        raise InvalidInput(f"The engine does not support {name} on {path}.", name)


def _is_schema(name: str, value: Any) -> bool:
    """Whether json_schema is an object; SGLang accepts a string only."""
    return name == "json_schema" and isinstance(value, dict)


def _by_kind(name: str, value: Any) -> dict[str, tuple[str, Any]]:
    """Return a field's constraints by kind, as (name for errors, value), without empty ones."""
    if name != STRUCTURED_OUTPUTS:
        values = {KINDS[name]: (name, value)}
    elif isinstance(value, dict):
        values = {kind: (f"{name}.{kind}", inner) for kind, inner in value.items()}
    else:
        raise InvalidInput(f"{name} must be a JSON object.", name)
    empty = NOTHING if name != "json_schema" else (*NOTHING, {})  # as SillyTavern sends it
    given = {kind: each for kind, each in values.items() if each[1] not in empty}
    for kind, (field, inner) in given.items():
        if kind not in KINDS.values():
            raise InvalidInput(f"The engine does not support {field}: remove it.", name)
        if kind == "choice" and not _is_list_of_texts(inner):
            raise InvalidInput(f"{field} must be a list of strings.", name)
    return given


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(v, str) for v in value)


def _constrains(value: Any) -> bool:
    is_text = isinstance(value, Mapping) and value.get("type") == "text"
    return value not in (None, "") and not is_text


def _for_sglang(name: str, kind: str, value: Any) -> dict[str, Any]:
    if kind in SGLANG_FIELDS:
        return {SGLANG_FIELDS[kind]: value}
    if kind == "choice":
        return {"regex": "|".join(f"({re.escape(text)})" for text in value)}
    if kind == "json_object":
        return {RESPONSE_FORMAT: {"type": "json_object"}}
    schema = _object(name, value)
    if kind == "structural_tag":
        return {RESPONSE_FORMAT: {"type": "structural_tag", **schema}}
    return {
        RESPONSE_FORMAT: {"type": "json_schema", "json_schema": {"name": kind, "schema": schema}}
    }


def _object(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InvalidInput(f"{name} is not JSON: {error}.", name) from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} must be a JSON object.", name)
    return value
