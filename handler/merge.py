"""Several OpenAI chunk objects → as few as say the same: what a native stream yields.

Chunks of one answer differ in what they add. Texts are joined, lists are extended, numbers and
names are taken from the later one. Choices are matched by `index`, tool calls within a choice too.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from handler.stream import MAX_CHUNK_BYTES, json_bytes

Chunk = dict[str, Any]
JOINED = frozenset({"content", "text", "reasoning", "reasoning_content", "refusal", "arguments"})


def decode(event: bytes) -> Chunk | None:
    """Return the JSON object in an SSE event; None for comments and `[DONE]`."""
    data = b"".join(line[5:] for line in event.splitlines() if line.startswith(b"data:")).strip()
    if not data or data == b"[DONE]":
        return None
    chunk: Chunk = orjson.loads(data)
    return chunk


def merge(chunks: list[Chunk]) -> Iterator[Chunk]:
    """Merge chunks in order; more than one comes out only where one would be over the limit."""
    merged: Chunk = {}
    size = 0
    for chunk in chunks:
        chunk_bytes = json_bytes(chunk)
        if merged and size + chunk_bytes > MAX_CHUNK_BYTES:
            yield merged
            merged, size = {}, 0
        _add(merged, chunk)
        size += chunk_bytes
    if merged:
        yield merged


def _add(into: Chunk, more: Chunk) -> None:
    for name, value in more.items():
        known = into.get(name)
        if known is None:
            into[name] = value
        elif isinstance(known, dict) and isinstance(value, dict):
            _add(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            _extend(known, value)
        elif name in JOINED and isinstance(known, str) and isinstance(value, str):
            into[name] = known + value
        elif value is not None:
            into[name] = value


def _extend(into: list[Any], more: list[Any]) -> None:
    by_index = {item["index"]: item for item in into if isinstance(item, dict) and "index" in item}
    for item in more:
        if isinstance(item, dict) and item.get("index") in by_index:
            _add(by_index[item["index"]], item)
        else:
            into.append(item)
