"""SGLang's parsers of tool calls and of reasoning get each token by itself, a client gets flushes.

The parsers are fed deltas of text, and some lose a call, or its arguments, when a delta has more
than one token: they look for one marker in each, or send a call's name and its arguments one after
the other. Several tokens come at once with a flush interval, with speculative decoding, with
`--stream-interval`, and after a stop string that began and did not follow. Here the text of an
output is cut where its tokens end, and what the parsers make of them is merged again.

The cuts are those of SGLang's detokenizer, which runs in a process of its own and sends the text of
all new tokens as one.
"""

import copy
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import orjson

Output = dict[str, Any]
Chunk = dict[str, Any]
Decode = Callable[[list[int]], str]

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # the last bytes are the beginning of a character
EVENT = "data: {}\n\n"


def chat_by_token(generate: Any) -> Any:
    """Return a replacement of `OpenAIServingChat._generate_chat_stream`."""

    def generate_chat_stream(self: Any, adapted_request: Any, request: Any, raw: Any) -> Any:
        reasoning = self.reasoning_parser and request.separate_reasoning
        if (reasoning or self._tool_call_parsing_active(request)) and _reads_text(self):
            serving = copy.copy(self)  # of this stream
            choices = _choices(self, adapted_request)
            serving._generate_stream_content = functools.partial(
                _content_by_token, self._generate_stream_content, choices
            )
            self = serving
        return generate(self, adapted_request, request, raw)

    return generate_chat_stream


async def _content_by_token(
    generate: Any,
    choices: "Callable[[int], TokenTexts]",
    *,
    content: Output,
    index: int,
    choice_logprobs: Any,
    finish_reason_type: str | None,
    **more: Any,
) -> AsyncIterator[str]:
    """Generate the events of an output; a replacement of `_generate_stream_content`."""
    events: list[str] = []
    *parts, last = choices(index).split(content)
    for part in parts:
        generated = generate(
            content=part, index=index, choice_logprobs=None, finish_reason_type=None, **more
        )
        events += [event async for event in generated]
    generated = generate(
        content=last,
        index=index,
        choice_logprobs=choice_logprobs,
        finish_reason_type=finish_reason_type,
        **more,
    )
    events += [event async for event in generated]
    for event in merged(events):
        yield event


def response_by_token(generate: Any) -> Any:
    """Return a replacement of `OpenAIServingResponses._generate_with_builtin_tools`.

    The events of this route are numbered, so they stay as they are.
    """

    async def generate_response(
        self: Any, request_id: Any, prompt: Any, adapted_request: Any, *rest: Any, **named: Any
    ) -> AsyncIterator[Any]:
        contexts = generate(self, request_id, prompt, adapted_request, *rest, **named)
        parses = self.reasoning_parser or self.tool_call_parser
        if not (adapted_request.stream and parses and _reads_text(self)):
            async for context in contexts:
                yield context
            return
        choice = _choices(self, adapted_request)(0)
        async for context in contexts:
            # A harmony model's keeps none: it reads tokens, any number of them.
            output = getattr(context, "last_output", None)
            for part in choice.split(output) if isinstance(output, dict) else (output,):
                context.last_output = part
                yield context

    return generate_response


def _reads_text(serving: Any) -> bool:
    """Whether the parsers are fed text; those of some models are fed tokens."""
    return serving._encoding_output() is None


def _choices(serving: Any, request: Any) -> "Callable[[int], TokenTexts]":
    """Return the function that finds a choice of one stream by its index."""
    manager = serving.tokenizer_manager
    decode = _decode(manager.tokenizer, request.sampling_params)
    incremental = manager.incremental_streaming_output
    return functools.cache(lambda _: TokenTexts(decode, incremental=incremental))


def _decode(tokenizer: Any, sampling_params: dict[str, Any]) -> Decode:
    """Return how SGLang's detokenizer makes the text of some tokens."""
    from sglang.srt.utils.patch_tokenizer import decode_without_hf_kwargs

    skip = sampling_params.get("skip_special_tokens", True)
    if not getattr(tokenizer, "is_fast", False):
        return lambda ids: str(decode_without_hf_kwargs(tokenizer, ids, skip))
    return functools.partial(
        tokenizer.decode,
        skip_special_tokens=skip,
        spaces_between_special_tokens=sampling_params.get("spaces_between_special_tokens", True),
    )


class TokenTexts:
    """The outputs of one choice, each split into those of its tokens.

    An output holds all text and tokens so far; with `incremental`, those that are new.
    """

    def __init__(self, decode: Decode, *, incremental: bool) -> None:
        self._incremental = incremental
        self._lengths = TokenLengths(decode)
        self._tokens = 0
        self._sent = 0  # characters
        self._end = 0  # of the last token, as TokenLengths has it
        # Ends of tokens behind which SGLang holds the text back: a step ended within a character.
        self._held: list[int] = []

    def split(self, output: Output) -> list[Output]:
        """Return an output for each new token; the last is the one that may be the end."""
        text, ids, meta_info = output["text"], output["output_ids"], output["meta_info"]
        # SGLang goes on to extend a list that holds all tokens.
        count = len(ids) if self._incremental else meta_info["completion_tokens"]
        before, first = (self._sent, 0) if self._incremental else (0, self._tokens)
        start, self._sent = self._sent, before + len(text)
        ends = self._held
        for token in ids[first:count]:
            self._end += self._lengths.following(token)
            ends.append(self._end)
        if first == start == 0 and meta_info["finish_reason"] is None:
            # The first token may lose its space where the prompt is not before it.
            lost = max(self._sent - self._end, 0)
            self._end += lost
            ends = [end + lost for end in ends]
        self._held = [end for end in ends if end > self._sent]
        self._tokens = first + len(ids[first:count])
        unfinished = meta_info | {"finish_reason": None}
        parts = []
        for position in ends[:-1]:
            end = max(start, min(position, self._sent))
            part = text[start - before if self._incremental else 0 : end - before]
            parts.append(output | {"text": part, "meta_info": unfinished})
            start = end
        return [*parts, output | {"text": text[start - before :]} if self._incremental else output]


class TokenLengths:
    """How many characters each token of a text adds, as SGLang's detokenizer has it.

    It decodes a token with those before it, of which it keeps as few as it can: those of the last
    two steps that gave text. A character may take several tokens, and has its text with the last.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._known = 0  # of the ids, those whose text is out
        self._printed = 0  # characters of the others that are out

    def following(self, token: int) -> int:
        """Return the number of characters that the next token adds."""
        self._ids.append(token)
        known = self._decode(self._ids[: self._known])
        text = self._decode(self._ids)[len(known) :]
        if text and not text.endswith(INCOMPLETE):
            length, self._printed = len(text) - self._printed, 0
            self._ids = self._ids[self._known :]
            self._known = len(self._ids)
            return length
        from sglang.utils import find_printable_text

        printable = max(self._printed, len(find_printable_text(text)))
        length, self._printed = printable - self._printed, printable
        return length


def merged(events: list[str]) -> Iterator[str]:
    """Merge events that follow each other and say the same kind of thing, in their order."""
    if len(events) < 2:
        yield from events
        return
    chunk: Chunk | None = None
    for event in events:
        following = orjson.loads(event.removeprefix("data:"))
        if chunk is not None and not _append(chunk, following):
            yield EVENT.format(orjson.dumps(chunk).decode())
            chunk = None
        chunk = chunk or following
    yield EVENT.format(orjson.dumps(chunk).decode())


def _append(chunk: Chunk, following: Chunk) -> bool:
    """Append a chunk to the one before it, if both add to the same text; return whether."""
    (choice,), (more,) = chunk["choices"], following["choices"]
    delta, new = ({k: v for k, v in each["delta"].items() if v} for each in (choice, more))
    if choice.get("logprobs") or delta.keys() != new.keys() or len(new) != 1:
        return False
    (name,) = new
    if name == "tool_calls":
        (call,), (addition,) = delta[name], new[name]
        if call["index"] != addition["index"] or addition["function"].get("name"):
            return False
        arguments = call["function"].get("arguments") or ""
        call["function"]["arguments"] = arguments + (addition["function"].get("arguments") or "")
    elif name in ("content", "reasoning_content"):
        choice["delta"][name] += new[name]
    else:
        return False
    choice["logprobs"] = more.get("logprobs")
    if following.get("usage"):
        chunk["usage"] = following["usage"]
    return True
