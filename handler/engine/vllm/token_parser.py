"""vLLM's parsers of tool calls and reasoning, fed token by token with the text of many tokens."""

import itertools
from collections.abc import Iterable
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage, DeltaToolCall
from vllm.parser.abstract_parser import DelegatingParser, Parser

from handler.engine.vllm.parsed_streams import DeltaText, ParsedText

REASONING, CONTENT, TOOL_CALLS = range(3)  # the order within one delta
FIELDS = {"reasoning", "content", "tool_calls"}


def token_parser(parser_cls: type[Parser]) -> type[Parser]:
    """Return a parser class that takes the deltas of many tokens, and parses token by token."""
    delegates = parser_cls.parse_delta is DelegatingParser.parse_delta
    extract = DelegatingParser.extract_tool_calls_streaming
    counts = getattr(parser_cls, extract.__name__, None) is extract

    def passes_on(parser: Any, request: Any) -> bool:
        return delegates and _is_plain_content(parser, request)

    class TokenParser(parser_cls):
        _counts = True

        def parse_delta(
            self,
            delta_text: str,
            delta_token_ids: list[int],
            request: Any,
            prompt_token_ids: list[int] | None = None,
            *,
            finished: bool,
        ) -> DeltaMessage | None:
            if isinstance(delta_text, ParsedText):
                return delta_text.delta
            parse = super().parse_delta
            if not isinstance(delta_text, DeltaText) or passes_on(self, request):
                return parse(
                    delta_text, delta_token_ids, request, prompt_token_ids, finished=finished
                )
            messages = []
            left = len(delta_token_ids)
            for text, token_ids in _tokens(delta_text, delta_token_ids):
                left -= len(token_ids)
                self._counts = not counts or left == 0
                ends = finished and left == 0
                message = parse(text, token_ids, request, prompt_token_ids, finished=ends)
                if message is not None:
                    messages.append(message)
            first, *later = merged_runs(messages) or [None]
            if first is not None and finished:  # nothing can follow
                for run in later:
                    _merge_into(first, run)
            elif later or not passes_on(self, request):
                delta_text.later = later
            return first

        def extract_tool_calls_streaming(self, *args: Any, **named: Any) -> DeltaMessage | None:
            """Let vLLM count only once per delta, because it takes a third of a token's time."""
            if self._counts or self.tool_parser is None:
                return super().extract_tool_calls_streaming(*args, **named)
            return self.tool_parser.extract_tool_calls_streaming(*args, **named)

    return TokenParser


def _tokens(text: DeltaText, token_ids: list[int]) -> Iterable[tuple[str, list[int]]]:
    """Return the text and id of each token; text without a token counts as one."""
    if len(token_ids) < 2:
        return [(text, token_ids)]
    return zip(text.pieces(), ([token_id] for token_id in token_ids), strict=True)


def _is_plain_content(parser: DelegatingParser, request: Any) -> bool:
    """Whether text is content without parsing: reasoning has ended, and no call is expected."""
    if not parser._stream_state.reasoning_ended:
        return False
    return parser.tool_parser is None or (
        request.tool_choice == "none" and not parser._engine_based
    )


def merged_runs(messages: Iterable[DeltaMessage]) -> list[DeltaMessage]:
    """Merge the deltas of several tokens into as few as possible, in the same order.

    Clients read a delta as reasoning, content and tool calls, in this order: content after a tool
    call needs a new delta.
    """
    runs: list[DeltaMessage] = []
    last = REASONING
    for name, group in itertools.groupby(messages, _only_text):
        for message in _joined(name, list(group)):
            fields = _fields(message)
            if runs and (not fields or fields[0] >= last):
                _merge_into(runs[-1], message)
            else:
                runs.append(message)
            last = fields[-1] if fields else last
    return runs


def _only_text(message: DeltaMessage) -> str | None:
    """Return the name of a delta's only text field, None for other deltas."""
    if message.tool_calls or not message.model_fields_set <= FIELDS:
        return None
    if not message.reasoning:
        return "content"
    return None if message.content else "reasoning"


def _joined(name: str | None, messages: list[DeltaMessage]) -> list[DeltaMessage]:
    """Join deltas that have the same single text field."""
    if name is None or len(messages) == 1:
        return messages
    text = "".join(getattr(message, name) or "" for message in messages)
    setattr(messages[0], name, text)
    return messages[:1]


def _fields(message: DeltaMessage) -> list[int]:
    """Return which fields a delta has, in their order."""
    present = (message.reasoning, message.content, message.tool_calls)
    return [field for field in (REASONING, CONTENT, TOOL_CALLS) if present[field]]


def _merge_into(merged: DeltaMessage, message: DeltaMessage) -> None:
    for name in message.model_fields_set:
        value = getattr(message, name)
        known = getattr(merged, name, None)
        if not value:
            continue
        if name == "tool_calls":
            merged.tool_calls = _merged_calls(merged.tool_calls, value)
        elif known is not None and name != "role":
            setattr(merged, name, known + value)  # texts, and lists such as Cohere's citations
        else:
            setattr(merged, name, value)


def _merged_calls(
    known: list[DeltaToolCall], calls: Iterable[DeltaToolCall]
) -> list[DeltaToolCall]:
    """Append tool calls; one that only continues the last one's arguments is merged into it."""
    merged = list(known)
    for call in calls:
        last = merged[-1] if merged else None
        goes_on = call.id is None and call.function is not None and call.function.name is None
        if last is not None and last.function and goes_on and last.index == call.index:
            assert call.function is not None
            last.function.arguments = (last.function.arguments or "") + (
                call.function.arguments or ""
            )
        else:
            merged.append(call)
    return merged
