"""Server-sent events: a byte stream is split into events, and events are decoded.

An event ends with a blank line. The split is made on bytes, so that a multi-byte character stays
whole. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import json
from typing import Any

import orjson

BOUNDARY = b"\n\n"
CompletionChunk = dict[str, Any]
"""An OpenAI chunk object, as one event of a stream carries it."""


class EventSplitter:
    """Splits bytes that arrive in pieces of any size into whole events."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that are now whole, each with its blank line."""
        head, boundary, self._rest = (self._rest + data).rpartition(BOUNDARY)
        if not boundary:
            return []
        return [event + BOUNDARY for event in head.split(BOUNDARY) if event]

    def end(self) -> list[bytes]:
        """Return what is left at the end of the stream: an event without its blank line."""
        rest, self._rest = self._rest, b""
        return [rest] if rest.strip() else []


def decode_event(event: bytes) -> CompletionChunk | None:
    """Return the JSON object in an event; None for comments and `[DONE]`."""
    data = b"".join(line[5:] for line in event.splitlines() if line.startswith(b"data:")).strip()
    if not data or data == b"[DONE]":
        return None
    chunk: CompletionChunk = orjson.loads(data)
    return chunk


def error_in(event: bytes) -> Any | None:
    """Return the decoded error that an event carries, or None.

    Errors are OpenAI's `data: {"error": …}`, and events named `error` in streams of Anthropic's API
    and of the responses API.
    """
    if b'"error"' not in event and b"event: error" not in event:
        return None
    lines = event.decode("utf-8", "replace").split("\n")  # not splitlines: a text may have U+2028
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
