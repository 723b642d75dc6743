"""Bounds on the size of a request's JSON, so that a large body cannot hold the event loops.

| bound                                    | setting           | status |
| ---------------------------------------- | ----------------- | ------ |
| values in the JSON                       | MAX_JSON_VALUES   | 413    |
| objects and texts in messages and tools  | MAX_REQUEST_ITEMS | 400    |
| fields of the body                       | MAX_FIELDS        | 400    |
| characters of all texts of a prompt      | the context       | 400    |

Decoding, walking and validating a body take time for each of its values, and most of it holds the
interpreter's lock: on no thread would it leave the others alone. A body over HTTP is counted before
it is decoded. The engines check a prompt's length after its tokenization, on some routes never.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from handler.errors import InputTooLarge, InvalidInput
from handler.request.json_text import CONTAINERS, after_string
from handler.request.media import MEDIA_FIELDS, SOURCE
from handler.request.routes import POST
from handler.settings.fields import Settings

# vLLM validates an item of the Responses API against two dozen types: 60 µs instead of 6.
RESPONSES_FACTOR = 8
SUBMISSION_FACTOR = 4  # a batch has many requests, and each line is checked by itself
MAX_FIELDS = 256  # an engine has at most 80 on a route; each unknown one is compared with these
# Fields whose objects and texts an engine validates, renders or tokenizes one by one.
ITEM_FIELDS = frozenset(
    "messages input inputs system documents queries items questions text texts text_1 text_2 data_1"
    " data_2 tools functions".split()
)
# All fields with a text that is tokenized.
TEXT_FIELDS = ITEM_FIELDS | frozenset(
    "prompt instructions instruction instruct query suffix state bad_words chat_template_kwargs"
    " previous_input_messages".split()
)
ITEM_FIELDS |= {"image_data", "video_data", "audio_data"}
SCHEMA_FIELDS = frozenset({"parameters", "input_schema", "schema", "arguments"})  # of tools
# Fields below these that the model does not read: media, and schemas of an answer's format.
NO_TEXT_FIELDS = MEDIA_FIELDS | frozenset(
    "file_data input_audio image_embeds audio_embeds video_embeds prompt_embeds encrypted_content"
    " signature schema json_schema".split()
)
# Fields whose JSON the model gets as a text, with its keys, and whatever these are.
JSON_FIELDS = frozenset({"arguments", "input", "parameters", "input_schema"})
TOP_JSON_FIELDS = frozenset({"chat_template_kwargs", "questions"})
# Fields by which vLLM cuts a text to the context, after it has tokenized all of it.
TRUNCATION_FIELDS = ("truncate_prompt_tokens", "max_tokens_per_query", "max_tokens_per_doc")
TRUNCATING_PATHS = frozenset(
    POST[name]
    for name in (
        "chat/completions chat/completions/batch completions embeddings pooling classify score"
        " rerank".split()
    )
)
MAX_TRUNCATED_CHARACTERS = 1_000_000
_TEXTS = frozenset({str, dict, list})
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class BodyLimits:
    """The bounds of a body.

    Attributes:
        max_values: strings, numbers, objects and lists in the JSON, beyond a prompt's token ids.
        max_items: objects in messages, tools, inputs and documents, and texts in their lists.
        context_tokens: the model's context length, None if unknown.
        max_token_characters: the characters of the tokenizer's longest token, None if unknown.
    """

    max_values: int
    max_items: int
    context_tokens: int | None = None
    max_token_characters: int | None = None

    @classmethod
    def from_settings(
        cls, settings: Settings, context_tokens: int, max_token_characters: int | None
    ) -> Self:
        return cls(
            max_values=settings.max_json_values,
            max_items=settings.max_request_items,
            context_tokens=context_tokens,
            max_token_characters=max_token_characters,
        )

    def check_text(self, text: bytes, factor: int = 1) -> None:
        """Check the values in JSON text before it is decoded.

        Args:
            text: valid or invalid JSON.
            factor: how many requests' values it may have.

        Raises:
            InputTooLarge: it has too many values.
        """
        limit = self._max_values * factor
        if len(text) > 2 * limit and _has_more_values(text, limit):
            raise self._too_many_values(limit)

    def check(self, path: str, body: Mapping[str, Any]) -> int:
        """Check a decoded body, and return how many items it has.

        Raises:
            InputTooLarge: it has too many values.
            InvalidInput: it has too many fields or items, or its text cannot fit the context.
        """
        if len(body) > MAX_FIELDS:
            raise InvalidInput(f"The body has {len(body)} fields; the limit is {MAX_FIELDS}.")
        count = 0
        for container in _containers(body):
            count += max(len(container), 1)
            if count > self._max_values:
                raise self._too_many_values(self._max_values)
        items = self._check_items(path, body)
        self._check_characters(path, body)
        return items

    @property
    def _max_values(self) -> int:
        return self.max_values + (self.context_tokens or 0)

    def _too_many_values(self, limit: int) -> InputTooLarge:
        return InputTooLarge(
            f"The body has more than {limit} JSON values, the limit that MAX_JSON_VALUES sets "
            f"({self.max_values}, and as many as the context has tokens).",
            "body",
        )

    def _check_items(self, path: str, body: Mapping[str, Any]) -> int:
        is_responses = path == POST["responses"]
        limit = self.max_items // RESPONSES_FACTOR if is_responses else self.max_items
        share = f"1/{RESPONSES_FACTOR} of MAX_REQUEST_ITEMS" if is_responses else ""
        count = 0
        for name in body.keys() & ITEM_FIELDS:
            for container in _containers(body[name], without=SCHEMA_FIELDS):
                count += _items(container)
                if count > limit:
                    raise InvalidInput(
                        f"{name} has too many messages, parts, tools or texts: a request may have "
                        f"{limit} of them together ({share or 'MAX_REQUEST_ITEMS'}).",
                        name,
                    )
        return count

    def _check_characters(self, path: str, body: Mapping[str, Any]) -> None:
        if not self.context_tokens or not self.max_token_characters:
            return
        limit = self.context_tokens * self.max_token_characters
        if is_cut := _is_truncated(path, body):
            limit = max(limit, MAX_TRUNCATED_CHARACTERS)
        for sizes in _prompt_sizes(path, body):
            if (size := sum(sizes.values())) > limit:
                names = [name for name, characters in sizes.items() if characters]
                text = f"{' and '.join(names)} {'have' if names[1:] else 'has'} {size} characters"
                raise InvalidInput(
                    f"{text}; a text that is to be truncated may have {limit}."
                    if is_cut
                    else f"{text}, which cannot fit the context of {self.context_tokens} tokens: "
                    f"the longest token has {self.max_token_characters} characters.",
                    max(sizes, key=lambda name: sizes[name]),
                )


def _is_truncated(path: str, body: Mapping[str, Any]) -> bool:
    if path == POST["v2/embed"]:
        return body.get("truncate") != "NONE"
    if path == POST["responses"]:
        return body.get("truncation") not in (None, "disabled")
    return path in TRUNCATING_PATHS and any(body.get(name) for name in TRUNCATION_FIELDS)


def _prompt_sizes(path: str, body: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    """Yield the characters of each prompt by field: a conversation, or each text of a list."""
    fields = {
        name: value for name, value in body.items() if name in TEXT_FIELDS and type(value) in _TEXTS
    }
    is_batch = path == POST["chat/completions/batch"]
    if path == POST["responses"] or ("messages" in body and not is_batch):
        yield {name: _characters(name, value) for name, value in fields.items()}
        return
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            if type(each) in _TEXTS:
                yield {name: _characters(name, each)}


def _characters(name: str, value: Any) -> int:
    """Return the characters of all texts in a value, those of media apart."""
    count = 0
    pending: list[tuple[Any, bool]] = [([value], name in TOP_JSON_FIELDS)]
    while pending:
        outer, is_json = pending.pop()
        if isinstance(outer, dict):
            count += sum(map(len, outer)) if is_json else 0
            named = [each for each in outer.items() if is_json or not _is_media(each[0], outer)]
            count += sum(len(inner) for _, inner in named if type(inner) is str)
            pending += [
                (inner, is_json or key in JSON_FIELDS)
                for key, inner in named
                if type(inner) in CONTAINERS
            ]
        else:
            count += sum(len(inner) for inner in outer if type(inner) is str)
            pending += [(inner, is_json) for inner in outer if type(inner) in CONTAINERS]
    return count


def _is_media(key: str, block: Mapping[str, Any]) -> bool:
    """Whether the model does not read this field of a message's part."""
    if key == SOURCE:  # of an image in /v1/messages
        return isinstance(block[key], dict) and block.get("type") != "search_result"
    return key in NO_TEXT_FIELDS


def _containers(value: Any, without: frozenset[str] = frozenset()) -> Iterator[Any]:
    """Yield the objects and lists in a value, itself included, without recursion."""
    pending = [value] if isinstance(value, dict | list) else []
    while pending:
        outer = pending.pop()
        yield outer
        if isinstance(outer, list):
            if not CONTAINERS.isdisjoint(map(type, outer)):
                pending += [inner for inner in outer if type(inner) in CONTAINERS]
        else:
            pending += [
                inner
                for name, inner in outer.items()
                if type(inner) in CONTAINERS and name not in without
            ]


def _items(container: Any) -> int:
    """Return 1 for an object, and for a list how many texts and lists it has."""
    if isinstance(container, dict):
        return 1
    return sum(isinstance(each, str | list) for each in container)


def _has_more_values(text: bytes, limit: int) -> bool:
    """Whether JSON text has more values than a limit: an upper bound, which skips strings.

    An empty object or list counts as one value, like a list with one.
    """
    position = values = strings = 0
    while True:
        quote = text.find(b'"', position)
        end = len(text) if quote < 0 else quote
        for start in range(position, end, _PIECE_BYTES):
            stop = min(start + _PIECE_BYTES, end)
            values += sum(text.count(mark, start, stop) for mark in (b",", b"[", b"{"))
            if values > limit:
                return True
        if quote < 0:
            return False
        strings += 1
        if strings > 2 * limit:  # a value has at most a key and a string
            return True
        position = after_string(text, quote + 1)
