"""JSON from callers: its type in error texts, and the limit on its nesting.

Python and the engines decode, validate and render JSON recursively, some of it in C++. The limit
also holds for strings that an engine decodes as JSON.
"""

import contextlib
import gc
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from handler.errors import InvalidInput

MAX_NESTING = 128  # enough for the schema of a tool, which vLLM limits to 64
# Fields with strings that an engine decodes as JSON: earlier tool calls, and schemas.
JSON_TEXT_FIELDS = frozenset({"arguments", "guided_json", "json", "json_schema", "structural_tag"})
CONTAINERS = frozenset({dict, list})
_PIECE_BYTES = 1 << 18
_IN_STRING = re.compile(rb'(?:[^"\\]{1,65536}+|\\.){0,5000}+', re.DOTALL)


def loads(text: str) -> Any:
    """Decode JSON of any depth.

    If it is too deep for Python, the deepest levels become null. The result is still too deep for
    `check_nesting`, which then rejects it.
    """
    with paused_collector():
        try:
            return json.loads(text)
        except RecursionError:
            return json.loads(cut(text.encode(), 2 * MAX_NESTING))


@contextlib.contextmanager
def paused_collector() -> Iterator[None]:
    """Decode JSON without the garbage collector, which would search the new values for cycles.

    A million values take 0.1 s instead of 0.4, and decoding keeps the interpreter's lock.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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


def after_string(text: bytes, position: int) -> int:
    """Return the position after the string that begins before `position`."""
    quote = text.find(b'"', position)
    if quote >= 0 and text.find(b"\\", position, quote) < 0:
        return quote + 1
    while True:  # in steps, because a search keeps the interpreter's lock
        found = _IN_STRING.match(text, position)
        end = found.end() if found else position
        if end >= len(text) or text[end] == ord('"'):
            return end + 1
        if end == position:  # a backslash at the end
            return len(text)
        position = end


def cut(text: bytes, max_depth: int) -> bytes:
    """Return JSON with null for every value below `max_depth`."""
    kept, begin = [], 0
    for start, stop in spans(text, max_depth):
        kept.append(text[begin:start])
        begin = stop
    return b"null".join([*kept, text[begin:]])


def spans(text: bytes, depth: int) -> Iterator[tuple[int, int]]:
    """Yield where each object and list that has `depth` others around it starts and stops.

    Raises:
        JSONDecodeError: one has no end.
    """
    start = left = 0
    for offset, change, depths in _depths(text):
        opened = (change == 1) & (depths == depth + 1)
        closed = (change == -1) & (depths == depth)
        for position in (opened | closed).nonzero()[0].tolist():
            if opened[position]:
                start = offset + position
            else:
                yield start, offset + position + 1
        left = depths[-1]
    if left:
        raise json.JSONDecodeError("an object or a list has no end", "", len(text))


def _depths(text: bytes) -> Iterator[tuple[int, Any, Any]]:
    """Yield, for each piece of a text, its offset, and 1 or -1 and the depth at each bracket.

    Both are arrays with an item for each byte; the depth is that after the byte.
    """
    import numpy as np

    text = text.replace(rb"\\", b"  ").replace(rb"\"", b"  ")
    depth = quotes = 0
    for offset in range(0, len(text), _PIECE_BYTES):
        piece = np.frombuffer(text, np.uint8, min(_PIECE_BYTES, len(text) - offset), offset)
        seen_quotes = np.cumsum(piece == ord('"'), dtype=np.int32) + quotes
        outside = seen_quotes % 2 == 0
        opens, closes = (np.isin(piece, np.frombuffer(each, np.uint8)) for each in (b"[{", b"]}"))
        change = (opens & outside).astype(np.int8) - (closes & outside).astype(np.int8)
        depths = np.cumsum(change, dtype=np.int32) + depth
        depth, quotes = int(depths[-1]), int(seen_quotes[-1])
        yield offset, change, depths


def _is_deep_text(name: str, value: Any) -> bool:
    if not isinstance(value, str) or name not in JSON_TEXT_FIELDS:
        return False
    if value.count("{") + value.count("[") <= MAX_NESTING:
        return False
    text = value.encode(errors="replace")
    return any(depths.max() > MAX_NESTING for *_, depths in _depths(text))
