"""Outputs of a flush that record where each token's text ends, for token-by-token parsing.

Many of vLLM's parsers of tool calls and reasoning keep state between two deltas, and lose a call
where one delta holds the end of a call and the beginning of the next. So a parser is fed token by
token, and its deltas are merged (token_parser.py): there is still one chunk per flush. A
speculative step with several tokens is split in the same way.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer

from handler.engine.vllm.paced_streams import PacedCollector, PacedState

# ---- text


class DeltaText(str):
    """The text of several tokens.

    Attributes:
        ends: where the text of each token ends.
        later: the parser's deltas after the first one; see `token_parser.merged_runs`. None if no
            parser has read the text.
    """

    ends: Sequence[int]
    later: Sequence[DeltaMessage] | None

    def __new__(cls, text: str, ends: Sequence[int]) -> "DeltaText":
        made = super().__new__(cls, text)
        made.ends, made.later = ends, None
        return made

    def pieces(self) -> list[str]:
        """Return the text of each token; the last one also has the rest."""
        begins, ends = [0, *self.ends[:-1]], [*self.ends[:-1], len(self)]
        return [self[begin:end] for begin, end in zip(begins, ends, strict=True)]


class ParsedText(str):
    """A placeholder for text that was parsed with the previous text; it carries a delta."""

    delta: DeltaMessage

    def __new__(cls, delta: DeltaMessage) -> "ParsedText":
        made = super().__new__(cls)
        made.delta = delta
        return made


class TokenDetokenizer:
    """A detokenizer of vLLM that takes one token at a time and records where its text ends."""

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
        """Return the text of an output; for a stream it is a `DeltaText`."""
        text: str = self._detokenizer.get_next_output_text(finished, delta)
        if not delta:
            return text
        ends, self._ends = self._ends, []
        sent, self._sent = self._sent, self._sent + len(text)
        return DeltaText(text, [min(max(end - sent, 0), len(text)) for end in ends])


class ParsedState(PacedState):
    """State of a request whose output may go through a parser."""

    def _wrapped(self, detokenizer: Any) -> Any:
        is_text = isinstance(detokenizer, BaseIncrementalDetokenizer)
        return TokenDetokenizer(detokenizer) if is_text else detokenizer


# ---- outputs


class ParsedCollector(PacedCollector):
    """Hands out one flush in several outputs if one cannot hold all of the parser's deltas."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._parts: list[Any] = []  # outputs to hand out at once
        self._parsing: Any = None  # the last output handed out
        self._is_parsed: bool | None = None  # unknown before the first output was read

    def get_nowait(self) -> Any:
        """Return the next output, None before a flush is due."""
        if self._parsing is not None:
            if not self._is_parsed and _has_tokens(self._parsing):
                self._is_parsed = _was_parsed(self._parsing)
            self._parts = _later_outputs(self._parsing) + self._parts
            self._parsing = None
        if not self._parts and (output := super().get_nowait()) is not None:
            self._parts = [output] if self._is_parsed is False else _parts(output)
        if self._parts:
            self._parsing = self._parts.pop(0)
        return self._parsing


def _parts(output: Any) -> list[Any]:
    """Split a last output into one of the last token and one of the tokens before it.

    No output may follow the last one, but the parser may make several deltas of one text.
    """
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


def _has_tokens(output: Any) -> bool:
    return isinstance(output, RequestOutput) and any(one.token_ids for one in output.outputs)


def _was_parsed(output: RequestOutput) -> bool:
    """Whether a parser has read an output that was handed out, and may find more in the next."""
    texts = [one.text for one in output.outputs]
    return any(isinstance(text, DeltaText) and text.later is not None for text in texts)


def _later_outputs(output: Any) -> list[Any]:
    """Return an output for each of the parser's deltas after the first one."""
    if not isinstance(output, RequestOutput):
        return []
    return [
        _with_outputs(output, [_cut(one, 0, 0, ParsedText(delta))])
        for one in output.outputs
        if isinstance(one.text, DeltaText)
        for delta in one.text.later or ()
    ]


def _cut(one: CompletionOutput, begin: int, end: int, text: str) -> CompletionOutput:
    logprobs = None if one.logprobs is None else one.logprobs[begin:end]
    return replace(one, text=text, token_ids=one.token_ids[begin:end], logprobs=logprobs)


def _with_outputs(output: RequestOutput, outputs: list[CompletionOutput]) -> RequestOutput:
    made = copy.copy(output)
    made.outputs, made.finished = outputs, False
    return made
