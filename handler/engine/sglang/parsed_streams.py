"""Token-by-token parsing of tool calls and reasoning in SGLang's streams.

The parsers are fed deltas of text, and some lose a call, or its arguments, when a delta has more
than one token: they look for one marker in each delta, or send a call's name and its arguments in
two deltas. Several tokens come at once with a flush interval, with speculative decoding, with
`--stream-interval`, and after an incomplete stop string. So the text of an output is split at its
tokens, each is parsed alone, and the events of one flush are merged again.
"""

import contextlib
import copy
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import orjson

from handler.engine.sglang.token_texts import Output, TokenTexts, decoder

Chunk = dict[str, Any]

EVENT = "data: {}\n\n"


def chat_by_token(generate: Any) -> Any:
    """Return a replacement of `OpenAIServingChat._generate_chat_stream`."""

    def generate_chat_stream(self: Any, adapted_request: Any, request: Any, raw: Any) -> Any:
        content = self._generate_stream_content
        reasoning = self.reasoning_parser and request.separate_reasoning
        if (reasoning or self._tool_call_parsing_active(request)) and _reads_text(self):
            choices = _choices(self, adapted_request)
            content = functools.partial(_content_by_token, content, choices)
        elif request.logprobs:
            incremental = self.tokenizer_manager.incremental_streaming_output
            content = functools.partial(_content_with_logprobs, content, incremental)
        else:
            return generate(self, adapted_request, request, raw)
        serving = copy.copy(self)  # for this stream only
        serving._generate_stream_content = content
        return generate(serving, adapted_request, request, raw)

    return generate_chat_stream


async def _content_by_token(
    generate: Any,
    choices: Callable[[int], TokenTexts],
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


async def _content_with_logprobs(
    generate: Any, incremental: bool, **output: Any
) -> AsyncIterator[str]:
    """Generate the events of an output; without new text, one event with its logprobs.

    The end of a turn and an incomplete character have no text. With a parser SGLang does the same.
    """
    from sglang.srt.entrypoints.openai.sse_utils import build_sse_content

    content, index = output["content"], output["index"]
    known = 0 if incremental else output["stream_offsets"].get(index, 0)
    if len(content["text"]) > known or not output["choice_logprobs"]:
        async for event in generate(**output):
            yield event
        return
    yield build_sse_content(
        chunk_id=content["meta_info"]["id"],
        created=output["created"],
        model=output["request"].model,
        index=index,
        logprobs=output["choice_logprobs"],
    )


def response_by_token(generate: Any) -> Any:
    """Return a replacement of `OpenAIServingResponses._generate_with_builtin_tools`.

    The events of this route are numbered, so they stay as they are.
    """

    def generate_response(
        self: Any, request_id: Any, prompt: Any, adapted_request: Any, *rest: Any, **named: Any
    ) -> Any:
        contexts = generate(self, request_id, prompt, adapted_request, *rest, **named)
        parses = self.reasoning_parser or self.tool_call_parser
        if adapted_request.stream and parses and _reads_text(self):
            return _contexts_by_token(contexts, _choices(self, adapted_request)(0))
        return contexts

    return generate_response


async def _contexts_by_token(contexts: Any, choice: TokenTexts) -> AsyncIterator[Any]:
    async with contextlib.aclosing(contexts):
        async for context in contexts:
            # A harmony model's context keeps no output: its parser takes any number of tokens.
            output = getattr(context, "last_output", None)
            for part in choice.split(output) if isinstance(output, dict) else (output,):
                context.last_output = part
                yield context


def _reads_text(serving: Any) -> bool:
    """Whether the parsers are fed text; those of some models are fed tokens."""
    return serving._encoding_output() is None


def _choices(serving: Any, request: Any) -> Callable[[int], TokenTexts]:
    """Return a function from the index of a choice to its `TokenTexts`, for one stream."""
    manager = serving.tokenizer_manager
    decode = decoder(manager.tokenizer, request.sampling_params)
    incremental = manager.incremental_streaming_output
    return functools.cache(lambda _: TokenTexts(decode, incremental=incremental))


def merged(events: list[str]) -> Iterator[str]:
    """Merge consecutive events that extend the same text or tool call."""
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
    """Append a chunk to the previous one if both extend the same text; return whether it was."""
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
