"""How a stream is split into chunks: as few as the platform's limit allows, for each costs a POST.

The OpenAI route's chunks are texts of whole events; the native input's are merged chunk objects.
"""

import json
from collections.abc import Iterator
from typing import Any

from handler.engine.sse import CompletionChunk

# The platform refuses a chunk of more than 1 MB; the rest is for the envelope around it.
MAX_CHUNK_BYTES = 990_000
MAX_JSON_GROWTH = 6  # bytes of JSON per character at the most: \u0001
# Fields of a chunk whose texts are joined; others are replaced by the later value.
TEXT_FIELDS = frozenset(
    {"content", "text", "reasoning", "reasoning_content", "refusal", "arguments"}
)


def json_bytes(value: object) -> int:
    """Return the size of `value` in a POST to the platform, as the SDK serializes it."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def join_events(events: list[bytes]) -> Iterator[str]:
    """Join events into as few texts as MAX_CHUNK_BYTES allows.

    A text holds whole events. Only an event that is over the limit alone is split, between two
    characters: the reader joins the texts.
    """
    texts = [event.decode("utf-8", "replace") for event in events]
    joined = "".join(texts)
    if len(joined) * MAX_JSON_GROWTH <= MAX_CHUNK_BYTES:  # nearly always: no exact count needed
        if joined:
            yield joined
        return
    pending: list[str] = []
    pending_bytes = 0
    for text in texts:
        size = json_bytes(text)
        if pending and pending_bytes + size > MAX_CHUNK_BYTES:
            yield "".join(pending)
            pending, pending_bytes = [], 0
        if size > MAX_CHUNK_BYTES:
            yield from _halves(text)
        else:
            pending.append(text)
            pending_bytes += size
    if pending:
        yield "".join(pending)


def _halves(text: str) -> Iterator[str]:
    """Halve a text until each part is within MAX_CHUNK_BYTES."""
    if json_bytes(text) <= MAX_CHUNK_BYTES:
        yield text
        return
    middle = len(text) // 2
    yield from _halves(text[:middle])
    yield from _halves(text[middle:])


def merge_chunks(chunks: list[CompletionChunk]) -> Iterator[CompletionChunk]:
    """Merge chunk objects of one stream into as few as MAX_CHUNK_BYTES allows, in order.

    Texts are joined, lists are extended, numbers and names are taken from the later chunk. Choices
    are matched by `index`, tool calls within a choice too.
    """
    merged: CompletionChunk = {}
    size = 0
    for chunk in chunks:
        chunk_bytes = json_bytes(chunk)
        if merged and size + chunk_bytes > MAX_CHUNK_BYTES:
            yield merged
            merged, size = {}, 0
        _merge_into(merged, chunk)
        size += chunk_bytes
    if merged:
        yield merged


def _merge_into(merged: CompletionChunk, chunk: CompletionChunk) -> None:
    for name, value in chunk.items():
        known = merged.get(name)
        if known is None:
            merged[name] = value
        elif isinstance(known, dict) and isinstance(value, dict):
            _merge_into(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            _extend_by_index(known, value)
        elif name in TEXT_FIELDS and isinstance(known, str) and isinstance(value, str):
            merged[name] = known + value
        elif value is not None:
            merged[name] = value


def _extend_by_index(merged: list[Any], items: list[Any]) -> None:
    known = {item["index"]: item for item in merged if isinstance(item, dict) and "index" in item}
    for item in items:
        if isinstance(item, dict) and item.get("index") in known:
            _merge_into(known[item["index"]], item)
        else:
            merged.append(item)
