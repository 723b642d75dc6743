"""How many tokens a request read and wrote, as the engine counts them.

A stream of the OpenAI routes says so only where it is asked for. It always is; where the caller has
not asked, the event that says it stays here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from handler.engine.sse import decode

COUNTED_ON_DEMAND = frozenset({"/v1/chat/completions", "/v1/completions"})
OPTIONS = "stream_options"


@dataclass(frozen=True)
class Usage:
    """Tokens of a request.

    Attributes:
        prompt: read.
        completion: written.
        cached: of those read, found in the KV cache.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def count_stream(path: str, body: dict[str, Any]) -> bool:
    """Have a stream's tokens counted; return whether the caller must not see the count."""
    options = body.get(OPTIONS)
    if path not in COUNTED_ON_DEMAND or body.get("stream") is not True:
        return False
    if options is not None and not isinstance(options, dict):
        return False  # the engine says what is wrong with it
    if options and options.get("include_usage"):
        return False
    body[OPTIONS] = {**(options or {}), "include_usage": True}
    return True


def is_count(event: bytes) -> bool:
    """Whether a stream's event is the one that has nothing but the count."""
    return b'"usage":{' in event and b'"choices":[]' in event


class UsageCounter:
    """Finds the usage in what a request is answered with."""

    def __init__(self) -> None:
        self._usage: dict[str, Any] = {}

    def add(self, data: bytes) -> None:
        """Look through some events of a stream, or a whole answer."""
        if b'"usage":' not in data:
            return
        if data.lstrip().startswith(b"{"):
            self.add_value(_parsed(data))
            return
        for event in data.split(b"\n\n"):
            if b'"usage":' in event:
                self.add_value(_decoded(event))

    def add_value(self, answer: Any) -> None:
        """Look into an answer, or a chunk of one."""
        if not isinstance(answer, dict):
            return
        for place in (answer, answer.get("response"), answer.get("message")):
            usage = place.get("usage") if isinstance(place, dict) else None
            if isinstance(usage, dict):
                # Anthropic's streams count what was read at their begin, what was written later.
                self._usage |= {name: count for name, count in usage.items() if count is not None}

    @property
    def usage(self) -> Usage:
        """What was found."""
        found = self._usage
        details = found.get("prompt_tokens_details") or found.get("input_tokens_details") or {}
        # Anthropic's tokens of the input are those that no cache has had to do with.
        beside = sum(_count(found, f"cache_{what}_input_tokens") for what in ("read", "creation"))
        return Usage(
            _count(found, "prompt_tokens", "input_tokens") + beside,
            _count(found, "completion_tokens", "output_tokens"),
            _count(details, "cached_tokens") or _count(found, "cache_read_input_tokens"),
        )


def _count(counts: Mapping[str, Any], *names: str) -> int:
    return next((counts[name] for name in names if isinstance(counts.get(name), int)), 0)


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _decoded(event: bytes) -> Any:
    try:
        return decode(event)
    except orjson.JSONDecodeError:
        return None
