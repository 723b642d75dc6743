"""The chunks of a stream: as large as the platform allows, because each one costs a POST.

A chunk of the OpenAI route is a text of whole events; one of the native input is a merged object.
"""

import json
from collections.abc import Iterator
from typing import Any

from handler.engine.call.sse import CompletionChunk

# The platform rejects a chunk over 1 MB; the difference is for the envelope around it.
MAX_CHUNK_BYTES = 990_000
MAX_JSON_GROWTH = 6  # maximum bytes of JSON per character, as in \u0001
# Fields whose strings are joined; for other fields the later value counts.
TEXT_FIELDS = frozenset(
    {"content", "text", "reasoning", "reasoning_content", "refusal", "arguments"}
)


def json_bytes(value: object) -> int:
    """Return the size of `value` in a POST to the platform, as the SDK serializes it."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def join_events(events: list[bytes]) -> Iterator[str]:
    """Join events into texts of up to MAX_CHUNK_BYTES.

    Only an event over the limit is split, between two characters; clients join the texts.
    """
    texts = [event.decode("utf-8", "replace") for event in events]
    joined = "".join(texts)
    if len(joined) * MAX_JSON_GROWTH <= MAX_CHUNK_BYTES:  # the usual case, without an exact count
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
    """Merge consecutive chunk objects of one stream, each result up to MAX_CHUNK_BYTES.

    Texts are joined, lists extended, and other values taken from the later chunk. Choices and tool
    calls are matched by `index`.
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
