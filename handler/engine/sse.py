"""Server-sent events on their way out: cut at event boundaries, decoded whole, split when too big.

An event ends with a blank line, and the cut is made on bytes, so that a multi-byte character is
never torn. https://html.spec.whatwg.org/multipage/server-sent-events.html

This module does not know what an event says, except for an error.
"""

import json
from collections.abc import Iterator
from typing import Any

import orjson

BOUNDARY = b"\n\n"
# The platform refuses a chunk of more than 1 MB; the rest is for the envelope around it.
MAX_CHUNK_BYTES = 990_000
WORST_GROWTH = 6  # bytes that JSON makes of one character at the most: \u0001


class EventSplitter:
    """Gives back whole events from bytes that arrive in any pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes, return the events that are now whole, each with its blank line."""
        head, boundary, self._rest = (self._rest + data).rpartition(BOUNDARY)
        if not boundary:
            return []
        return [event + BOUNDARY for event in head.split(BOUNDARY) if event]

    def end(self) -> list[bytes]:
        """Return what is left at the end of the stream: an event without its blank line."""
        rest, self._rest = self._rest, b""
        return [rest] if rest.strip() else []


def error_in(event: bytes) -> Any | None:
    """Return the decoded error that an event carries, or None.

    Read are OpenAI's `data: {"error": …}`, and events named `error` as Anthropic's and the
    responses API's streams have them.
    """
    if b'"error"' not in event and b"event: error" not in event:
        return None
    lines = event.decode("utf-8", "replace").split("\n")  # not splitlines: texts hold U+2028
    data = "".join(line.removeprefix("data:") for line in lines if line.startswith("data:"))
    try:
        payload = json.loads(data)
    except ValueError:
        return None
    if not isinstance(payload, dict):
        return None
    if payload.get("type") == "response.failed":
        return payload.get("response")
    return payload if payload.get("error") or "event: error" in lines else None


def json_bytes(value: object) -> int:
    """Return the size of `value` in a chunk: as the SDK serializes it."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def chunks_of(events: list[bytes]) -> Iterator[str]:
    """Join events to as few texts as the platform's limit allows.

    A text holds whole events. Only an event that is over the limit alone is split, between two
    characters: the reader joins the texts.
    """
    texts = [event.decode("utf-8", "replace") for event in events]
    whole = "".join(texts)
    if len(whole) * WORST_GROWTH <= MAX_CHUNK_BYTES:  # nearly always: no need to count closely
        if whole:
            yield whole
        return
    pending: list[str] = []
    pending_bytes = 0
    for text in texts:
        size = json_bytes(text)
        if pending and pending_bytes + size > MAX_CHUNK_BYTES:
            yield "".join(pending)
            pending, pending_bytes = [], 0
        if size > MAX_CHUNK_BYTES:
            yield from _pieces(text)
        else:
            pending.append(text)
            pending_bytes += size
    if pending:
        yield "".join(pending)


def _pieces(text: str) -> Iterator[str]:
    """Halve a text until each piece fits."""
    if json_bytes(text) <= MAX_CHUNK_BYTES:
        yield text
        return
    middle = len(text) // 2
    yield from _pieces(text[:middle])
    yield from _pieces(text[middle:])


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
