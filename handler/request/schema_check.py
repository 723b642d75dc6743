"""Checks of what an engine compiles to constrain an output: schemas, grammars, regexes, choices.

An engine compiles in native code that no caller can stop, and keeps what it compiled. So the size
is bounded before, and what has no finite meaning is rejected: the engines would answer 500.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from handler.errors import InvalidInput

# Keywords of a JSON schema whose members are what the engines make a rule or a branch of each.
ITEM_KEYWORDS = frozenset(
    "properties patternProperties dependentSchemas dependencies $defs definitions enum anyOf oneOf "
    "allOf prefixItems items tags elements structures triggers".split()
)
COUNTS = (
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
    ("minContains", "maxContains"),
)
MAX_COUNT = 100_000  # the sum of these in a schema; each is a state of an automaton
DATA_KEYWORDS = frozenset({"const", "enum", "default", "examples", "example"})
# Keywords that apply a schema to the same value, so that a cycle of them never ends.
SAME_VALUE_KEYWORDS = ("anyOf", "oneOf", "allOf", "not", "if", "then", "else")
EMBEDDED_SCHEMAS = ("json_schema", "schema")  # in a structural tag
MAX_OPTIONAL_PROPERTIES = 256  # of one object; the work of xgrammar grows with their square
# Characters that all {n,m} of a schema, regex or grammar stand for, and its character classes.
MAX_EXPANDED_SIZE = 4_000
# What a further range of minLength and maxLength counts: xgrammar takes a second for each.
LENGTH_ITEMS = 128
CLASSES = frozenset({"[", ".", *(rf"\{letter}" for letter in "dDwWsSpP")})
_REGEX_TOKEN = re.compile(r"\\.|\{\s*(?P<low>\d+)\s*,?\s*(?P<high>\d*)\s*\}|.", re.DOTALL)


class Size(NamedTuple):
    """The size of a constraint: what the bounds count."""

    bytes: int = 0
    items: int = 0


def total(sizes: Iterable[Size]) -> Size:
    """Return the size of several constraints together."""
    return Size(*(sum(counts) for counts in zip(Size(), *sizes, strict=True)))


class ConstraintBounds:
    """The bounds of a constraint, and of all those of a request together.

    Args:
        max_bytes: of a schema, grammar, regex or structural tag, or of all choices together.
        max_items: properties, enumerated values and alternatives.
    """

    def __init__(self, max_bytes: int, max_items: int) -> None:
        self.max_bytes = max_bytes
        self.max_items = max_items

    def check_schema(self, name: str, value: Any, *, is_tag: bool = False) -> Size:
        """Check a JSON schema, or a structural tag with schemas in it, an object or its text.

        Returns:
            Its size.

        Raises:
            InvalidInput: with the field's name and, for a bound, the setting.
        """
        if isinstance(value, str):
            self._check_bytes(name, len(value.encode()))
            try:
                value = json.loads(value)
            except RecursionError as error:
                raise InvalidInput(f"{name} is nested too deeply.", name) from error
            except ValueError as error:
                raise InvalidInput(f"{name} is not JSON: {error}.", name) from error
        if not isinstance(value, dict):
            return Size()  # true and false; for the rest the engine knows what is right
        size = self.check_size(name, value)
        further = max(0, _check_objects(name, value) - 1)
        size = self.checked(name, Size(size.bytes, size.items + further * LENGTH_ITEMS))
        for root in _schemas(value) if is_tag else [value]:
            if _refers_to_itself(root):
                raise InvalidInput(
                    f"{name} has a $ref, anyOf, oneOf or allOf that leads back to itself: put a "
                    "property or an item between the schema and its repetition.",
                    name,
                )
        return size

    def check_text(self, name: str, value: Any) -> Size:
        """Check a regex or a grammar."""
        if not isinstance(value, str):
            raise InvalidInput(f"{name} must be a string.", name)
        size = self.checked(name, Size(len(value.encode()), value.count("|") + 1))
        _check_repetitions(name, value)
        return size

    def check_choices(self, name: str, value: Any) -> Size:
        """Check a list of texts."""
        if not isinstance(value, list):
            return Size()
        texts = [each for each in value if isinstance(each, str)]
        self._check_items(name, len(value))
        return self.checked(name, Size(sum(len(each.encode()) for each in texts), len(value)))

    def check_total(self, size: Size) -> None:
        """Check all constraints of a request together: an engine may compile each of them."""
        self.checked("The request, in all its schemas, grammars, choices and tools,", size)

    def checked(self, name: str, size: Size) -> Size:
        """Return the size; raises InvalidInput if it passes a bound."""
        self._check_bytes(name, size.bytes)
        self._check_items(name, size.items)
        return size

    def check_size(self, name: str, root: Mapping[str, Any]) -> Size:
        """Count bytes and items until a bound is passed: the work is bounded too."""
        size = items = 0
        pending: list[tuple[str, Any]] = [("", root)]
        while pending:
            keyword, value = pending.pop()
            if isinstance(value, dict | list):
                items += len(value) if keyword in ITEM_KEYWORDS else 0
                self._check_items(name, items)
                size += 2 + len(value)
                self._check_bytes(name, size)
                if isinstance(value, list):
                    pending += [("", each) for each in value]
                else:
                    size += sum(len(key.encode()) + 3 for key in value)
                    pending += value.items()
            else:
                size += len(value.encode()) + 2 if isinstance(value, str) else 4
            self._check_bytes(name, size)
        return Size(size, items)

    def _check_bytes(self, name: str, size: int) -> None:
        if size > self.max_bytes:
            raise InvalidInput(
                f"{name} has more than {self.max_bytes} bytes, the limit that MAX_SCHEMA_BYTES "
                "sets.",
                name,
            )

    def _check_items(self, name: str, count: int) -> None:
        if count > self.max_items:
            raise InvalidInput(
                f"{name} has more than {self.max_items} properties, values and alternatives, the "
                "limit that MAX_SCHEMA_ITEMS sets.",
                name,
            )


def _check_objects(name: str, root: Mapping[str, Any]) -> int:
    """Check each object that may be a schema, and return how many ranges of lengths there are."""
    counted = written_out = 0
    lengths: set[tuple[Any, Any]] = set()
    for schema in _objects(root):
        for pair in COUNTS:
            counted += _count(name, schema, *pair)
        lengths.add(tuple(_number(schema.get(keyword)) for keyword in COUNTS[0]))
        if counted > MAX_COUNT:
            raise InvalidInput(
                f"{name}: minLength, maxLength, minItems, maxItems and the like are more than "
                f"{MAX_COUNT} in all: leave out those that set no real limit.",
                name,
            )
        for keyword in ("pattern", "regex"):
            if isinstance(schema.get(keyword), str):
                written_out += _check_repetitions(name, schema[keyword], written_out)
        properties, required = schema.get("properties"), schema.get("required")
        if isinstance(properties, dict) and len(properties) > MAX_OPTIONAL_PROPERTIES:
            listed = required if isinstance(required, list) else []
            needed = {each for each in listed if isinstance(each, str)}
            if len(properties.keys() - needed) > MAX_OPTIONAL_PROPERTIES:
                raise InvalidInput(
                    f"{name} has an object with more than {MAX_OPTIONAL_PROPERTIES} optional "
                    "properties: name them in required, or allow additionalProperties.",
                    name,
                )
    return len(lengths - {(None, None)})


def _number(value: Any) -> Any:
    """Return a limit, None for a property of the same name, which is an object."""
    return value if isinstance(value, int | float) else None


def _count(name: str, schema: Mapping[str, Any], low: str, high: str) -> int:
    """Return the larger of two counts; a property may have the same name, and is an object."""
    counts = {k: schema[k] for k in (low, high) if isinstance(schema.get(k), int | float)}
    for keyword, count in counts.items():
        if count < 0:
            raise InvalidInput(f"{name}: {keyword} must not be negative, got {count}.", name)
    if len(counts) == 2 and counts[low] > counts[high]:
        raise InvalidInput(f"{name}: {low} must not be above {high}.", name)
    return int(min(max(counts.values(), default=0), MAX_COUNT + 1))


def _objects(root: Any) -> Iterator[dict[str, Any]]:
    """Yield every object that may be a schema; values such as `const` are left out."""
    pending = [root]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending += [inner for keyword, inner in value.items() if keyword not in DATA_KEYWORDS]
        elif isinstance(value, list):
            pending += value


def _schemas(tag: Any) -> Iterator[dict[str, Any]]:
    """Yield the outermost schemas in a structural tag; each is the root of its references."""
    pending = [tag]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for keyword, inner in value.items():
                if keyword in EMBEDDED_SCHEMAS and isinstance(inner, dict):
                    yield inner
                else:
                    pending.append(inner)
        elif isinstance(value, list):
            pending += value


def _refers_to_itself(root: dict[str, Any]) -> bool:
    """Whether a cycle of references applies a schema to the same value for ever."""
    finished: set[int] = set()
    for start in _objects(root):
        open_: set[int] = set()
        stack: list[tuple[dict[str, Any], bool]] = [(start, True)]
        while stack:
            schema, enters = stack.pop()
            key = id(schema)
            if not enters:
                open_.discard(key)
                finished.add(key)
            elif key in open_:
                return True
            elif key not in finished:
                open_.add(key)
                stack.append((schema, False))
                stack += [(each, True) for each in _same_value(schema, root)]
    return False


def _same_value(schema: Mapping[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schemas that hold for the same value as `schema`."""
    if isinstance(reference := schema.get("$ref"), str):
        target = _target(reference, root)
        if isinstance(target, dict):
            yield target
    for keyword in SAME_VALUE_KEYWORDS:
        inner = schema.get(keyword)
        for each in inner if isinstance(inner, list) else [inner]:
            if isinstance(each, dict):
                yield each


def _target(reference: str, root: Any) -> Any:
    """Return what a reference within the document points to, None for any other."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    value = root
    for part in reference.split("/")[1:]:
        part = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part[:6]) < len(value):
            value = value[int(part[:6])]
        else:
            return None
    return value


def _check_repetitions(name: str, text: str, before: int = 0) -> int:
    """Reject classes and repetitions {n,m}, also nested, that become too many states.

    Args:
        name: of the field.
        text: a regex or a grammar.
        before: the same of the schema's other regexes.

    Returns:
        How many characters they stand for.
    """
    size = _expanded_size(text)
    if before + size > MAX_EXPANDED_SIZE:
        raise InvalidInput(
            f"{name} has character classes and repetitions {{n,m}} that stand for more than "
            f"{MAX_EXPANDED_SIZE} characters in all: use smaller numbers, * or +.",
            name,
        )
    return size


def _expanded_size(text: str) -> int:
    """Return the atoms of a regex or a grammar with each repetition written out.

    A plain character counts only where it is repeated: it is quick to compile.
    """
    sizes, last, plain, in_class = [0], 0, 0, False
    for token in _REGEX_TOKEN.finditer(text):
        if in_class:
            in_class = token[0] != "]"
        elif token[0] == "(":
            sizes.append(0)
            last = 0
        elif token[0] == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif token["low"] is not None:
            numbers = [int(each[:9]) for each in (token["low"], token["high"]) if each]
            added = last * (max([1, *numbers]) - 1)
            last += added
            sizes[-1] += added
        else:
            in_class = token[0] == "["
            plain += token[0] not in CLASSES
            last = 1
            sizes[-1] += 1
    return sum(sizes) - plain
