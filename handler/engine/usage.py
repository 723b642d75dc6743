"""Token usage of a request, as the engine counts it.

The OpenAI routes send the usage of a stream only on request. The worker always requests it, and
keeps the usage event from callers who did not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from handler.engine.sse import decode_event

USAGE_ON_REQUEST = frozenset({"/v1/chat/completions", "/v1/completions"})
STREAM_OPTIONS = "stream_options"


@dataclass(frozen=True)
class Usage:
    """Tokens of a request.

    Attributes:
        prompt: of the prompt, cached ones included.
        completion: generated.
        cached: of the prompt, found in the KV cache.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def include_usage(path: str, body: dict[str, Any]) -> bool:
    """Request the usage of a stream, changing `body`; return whether to hide it from the caller."""
    options = body.get(STREAM_OPTIONS)
    if path not in USAGE_ON_REQUEST or body.get("stream") is not True:
        return False
    if options is not None and not isinstance(options, dict):
        return False  # the engine says what is wrong with it
    if options and options.get("include_usage"):
        return False
    body[STREAM_OPTIONS] = {**(options or {}), "include_usage": True}
    return True


def is_usage_event(event: bytes) -> bool:
    """Whether an event of a stream carries the usage and nothing else."""
    return b'"usage":{' in event and b'"choices":[]' in event


class UsageCounter:
    """Collects the usage from the events of a stream, or from a whole response."""

    def __init__(self) -> None:
        self._usage: dict[str, Any] = {}

    def add(self, data: bytes) -> None:
        """Read whole events of a stream, or a whole response body."""
        if b'"usage":' not in data:
            return
        if data.lstrip().startswith(b"{"):
            self._add_object(_parse(data, orjson.loads))
            return
        for event in data.split(b"\n\n"):
            if b'"usage":' in event:
                self._add_object(_parse(event, decode_event))

    def _add_object(self, value: Any) -> None:
        if not isinstance(value, dict):
            return
        for holder in (value, value.get("response"), value.get("message")):
            usage = holder.get("usage") if isinstance(holder, dict) else None
            if isinstance(usage, dict):
                # Anthropic's streams count the prompt at their start, the completion at their end.
                self._usage |= {name: count for name, count in usage.items() if count is not None}

    @property
    def usage(self) -> Usage:
        counts = self._usage
        details = counts.get("prompt_tokens_details") or counts.get("input_tokens_details") or {}
        # Anthropic's input_tokens leave out what was read from a cache or written to one.
        cached = sum(_first(counts, f"cache_{kind}_input_tokens") for kind in ("read", "creation"))
        return Usage(
            prompt=_first(counts, "prompt_tokens", "input_tokens") + cached,
            completion=_first(counts, "completion_tokens", "output_tokens"),
            cached=_first(details, "cached_tokens") or _first(counts, "cache_read_input_tokens"),
        )


def _first(counts: Mapping[str, Any], *names: str) -> int:
    return next((counts[name] for name in names if isinstance(counts.get(name), int)), 0)


def _parse(data: bytes, parse: Any) -> Any:
    try:
        return parse(data)
    except orjson.JSONDecodeError:
        return None
