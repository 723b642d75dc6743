"""Token usage of a request, as the engine counts it.

The OpenAI routes send the usage of a stream only on request. The worker always requests it, and
hides the usage event from callers who did not request it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from handler.engine.call.sse import decode_event

SGLANG_USAGE = b'"meta_info":'  # the usage of one prompt in SGLang's own routes
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
        return False  # the engine reports the error
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
        self._own_usage: dict[int, dict[str, Any]] = {}  # by the prompt's index

    def add(self, data: bytes) -> None:
        """Read whole events of a stream, or a whole response body."""
        if SGLANG_USAGE in data:
            self._add_own(data)
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

    def _add_own(self, data: bytes) -> None:
        """Read the running totals of SGLang's own routes."""
        if data.startswith(b"data:"):
            numbered = [(0, _parse(event, decode_event)) for event in data.split(b"\n\n")]
        else:
            body = _parse(data, orjson.loads)
            numbered = list(enumerate(body if isinstance(body, list) else [body]))
        for number, answer in numbered:
            if isinstance(answer, dict) and isinstance(answer.get("meta_info"), dict):
                self._own_usage[answer.get("index", number)] = answer["meta_info"]

    @property
    def usage(self) -> Usage:
        if self._own_usage:
            totals = self._own_usage.values()
            return Usage(
                prompt=sum(_first(counts, "prompt_tokens") for counts in totals),
                completion=sum(_first(counts, "completion_tokens") for counts in totals),
                cached=sum(_first(counts, "cached_tokens") for counts in totals),
            )
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
