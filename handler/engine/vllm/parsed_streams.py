"""vLLM's tool-call and reasoning parsers see each token alone, however many a flush has.

Many of them keep state between two deltas and lose a call where one delta holds the end of a call
and the beginning of the next. So the output of a flush knows where the text of each token ends, the
parser is fed token by token, and what it makes of them is merged into one delta: a chunk is still
made per flush. A step of speculation that brings several tokens is taken apart in the same way.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage, DeltaToolCall
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.parser.abstract_parser import DelegatingParser, Parser
from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer

from handler.engine.vllm.paced_streams import PacedCollector, PacedState

REASONING, CONTENT, TOOL_CALLS = range(3)  # the order within one delta

# ---- text


class DeltaText(str):
    """The text of several tokens.

    Attributes:
        ends: where the text of each token ends.
        later: what the parser made of them beyond its first delta; see `merged_runs`.
    """

    ends: Sequence[int]
    later: Sequence[DeltaMessage]

    def __new__(cls, text: str, ends: Sequence[int]) -> "DeltaText":
        made = super().__new__(cls, text)
        made.ends, made.later = ends, ()
        return made

    def pieces(self) -> list[str]:
        """Return the text of each token; the last one's holds all that is left."""
        begins, ends = [0, *self.ends[:-1]], [*self.ends[:-1], len(self)]
        return [self[begin:end] for begin, end in zip(begins, ends, strict=True)]


class ParsedText(str):
    """In place of a text that was parsed with the one before it."""

    delta: DeltaMessage

    def __new__(cls, delta: DeltaMessage) -> "ParsedText":
        made = super().__new__(cls)
        made.delta = delta
        return made


class TokenDetokenizer:
    """A detokenizer of vLLM that takes one token at a time and notes where its text ends."""

    def __init__(self, detokenizer: BaseIncrementalDetokenizer) -> None:
        self._detokenizer = detokenizer
        self._ends: list[int] = []  # of tokens that are in no output yet
        self._sent = 0

    @property
    def output_token_ids(self) -> list[int]:
        token_ids: list[int] = self._detokenizer.output_token_ids
        return token_ids

    def num_output_tokens(self) -> int:
        count: int = self._detokenizer.num_output_tokens()
        return count

    def update(self, new_token_ids: Sequence[int], stop_terminated: bool) -> str | None:
        """Take the tokens of one step; return the stop string that ended the text."""
        if len(new_token_ids) == 1:
            return self._take(new_token_ids, stop_terminated)
        for left, token_id in enumerate(new_token_ids, 1 - len(new_token_ids)):
            stop = self._take([token_id], stop_terminated and left == 0)
            if stop is not None:
                return stop
        return None

    def _take(self, token: Sequence[int], stop_terminated: bool) -> str | None:
        detokenizer = self._detokenizer
        stop: str | None = detokenizer.update(token, stop_terminated)
        self._ends.append(len(detokenizer.output_text) - detokenizer.stop_buffer_length)
        return stop

    def get_next_output_text(self, finished: bool, delta: bool) -> str:
        """Return the text of an output; a stream's knows where each token ends."""
        text: str = self._detokenizer.get_next_output_text(finished, delta)
        if not delta:
            return text
        ends, self._ends = self._ends, []
        sent, self._sent = self._sent, self._sent + len(text)
        return DeltaText(text, [min(max(end - sent, 0), len(text)) for end in ends])


class ParsedState(PacedState):
    """State of a request whose output may go through a parser."""

    detokenizer: Any

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        if isinstance(self.detokenizer, BaseIncrementalDetokenizer):
            self.detokenizer = TokenDetokenizer(self.detokenizer)


# ---- outputs


class ParsedCollector(PacedCollector):
    """Hands out what a parser makes of one flush in several outputs where one cannot hold it."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._parts: list[Any] = []  # to be handed out at once
        self._parsing: Any = None  # handed out last

    def get_nowait(self) -> Any:
        """Return what there is, None before a flush is due."""
        if self._parsing is not None:
            self._parts = _later_outputs(self._parsing) + self._parts
            self._parsing = None
        if not self._parts:
            self._parts = _parts(super().get_nowait())
        if self._parts:
            self._parsing = self._parts.pop(0)
        return self._parsing


def _parts(output: Any) -> list[Any]:
    """Return a last output as that of its last token, and one of those before.

    Nothing may follow the last one, and the parser may make several deltas of a text.
    """
    if output is None:
        return []
    if not isinstance(output, RequestOutput):
        return [output]
    before = []
    for position, one in enumerate(output.outputs):
        text, tokens = one.text, len(one.token_ids)
        if one.finish_reason is None or tokens < 2 or not isinstance(text, DeltaText):
            continue
        end = text.ends[-2]
        output.outputs[position] = _cut(one, tokens - 1, tokens, text[end:])
        first = _cut(one, 0, tokens - 1, DeltaText(text[:end], text.ends[:-1]))
        before.append(replace(first, finish_reason=None, stop_reason=None))
    return [*([_with_outputs(output, before)] if before else []), output]


def _later_outputs(output: Any) -> list[Any]:
    """Return outputs of what the parser made of a text beyond its first delta."""
    if not isinstance(output, RequestOutput):
        return []
    return [
        _with_outputs(output, [_cut(one, 0, 0, ParsedText(delta))])
        for one in output.outputs
        if isinstance(one.text, DeltaText)
        for delta in one.text.later
    ]


def _cut(one: CompletionOutput, begin: int, end: int, text: str) -> CompletionOutput:
    logprobs = None if one.logprobs is None else one.logprobs[begin:end]
    return replace(one, text=text, token_ids=one.token_ids[begin:end], logprobs=logprobs)


def _with_outputs(output: RequestOutput, outputs: list[CompletionOutput]) -> RequestOutput:
    made = copy.copy(output)
    made.outputs, made.finished = outputs, False
    return made


# ---- parsers


def token_parser(parser_cls: type[Parser]) -> type[Parser]:
    """Return a parser class that takes the deltas of many tokens, and parses token by token."""
    delegates = parser_cls.parse_delta is DelegatingParser.parse_delta
    extract = DelegatingParser.extract_tool_calls_streaming
    counts = getattr(parser_cls, extract.__name__, None) is extract

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
            if (
                len(delta_token_ids) < 2
                or not isinstance(delta_text, DeltaText)
                or (delegates and _passes_text_on(self, request))
            ):
                return parse(
                    delta_text, delta_token_ids, request, prompt_token_ids, finished=finished
                )
            messages = []
            left = len(delta_token_ids)
            for text, token_id in zip(delta_text.pieces(), delta_token_ids, strict=True):
                left -= 1
                self._counts = not counts or left == 0
                ends = finished and left == 0
                message = parse(text, [token_id], request, prompt_token_ids, finished=ends)
                if message is not None:
                    messages.append(message)
            first, *delta_text.later = merged_runs(messages) or [None]
            return first

        def extract_tool_calls_streaming(self, *args: Any, **named: Any) -> DeltaMessage | None:
            """vLLM counts here: once a delta, which takes a third of the time of a token."""
            if self._counts or self.tool_parser is None:
                return super().extract_tool_calls_streaming(*args, **named)
            return self.tool_parser.extract_tool_calls_streaming(*args, **named)

    return TokenParser


def _passes_text_on(parser: DelegatingParser, request: Any) -> bool:
    """Whether the text becomes content as it is: reasoning is over, and no call is looked for."""
    if not parser._stream_state.reasoning_ended:
        return False
    return parser.tool_parser is None or (
        request.tool_choice == "none" and not parser._engine_based
    )


def merged_runs(messages: Iterable[DeltaMessage]) -> list[DeltaMessage]:
    """Merge what a parser made of several tokens into as few deltas as keep the order.

    A delta is read as reasoning, text and calls, in this order: a text after a call begins
    another one.
    """
    runs: list[DeltaMessage] = []
    last = REASONING
    for message in messages:
        fields = _fields(message)
        if runs and (not fields or fields[0] >= last):
            _merge_into(runs[-1], message)
        else:
            runs.append(message)
        last = fields[-1] if fields else last
    return runs


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
    """Append calls; one that only goes on with the last one's arguments is merged into it."""
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
