"""A stream has the text, choices, logprobs and usage of the plain answer."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from sglang.srt.entrypoints.openai.protocol import CompletionRequest
from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
from sglang.srt.entrypoints.openai.serving_completions import OpenAIServingCompletion
from sglang.srt.managers.io_struct import GenerateReqInput

from handler.engine.sglang.parsed_streams import chat_by_token
from tests.support.parser_outputs.sglang import (
    CALLS,
    TEXT,
    TOOLS,
    marks_in,
    reasoning,
)
from tests.support.parser_outputs.sglang_calls import TOOL_CALL_FORMATS
from tests.support.sglang_streams import (
    PROMPT,
    FakeTokenizerManager,
    ask,
    cut,
    make_serving,
    make_tokenizer,
    sglang_without_engine,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # SGLang warns while it is imported

OURS = chat_by_token(OpenAIServingChat._generate_chat_stream)
PARSERS = {
    "no parser": {},
    "a parser of calls": {"tool_call_parser": "llama3"},
    "a parser of reasoning": {"reasoning_parser": "deepseek-r1"},
    "both": {"reasoning_parser": "qwen3", "tool_call_parser": "qwen25"},
}
LONG = f"{TEXT} Zwölf Boxkämpfer 🥊🥊 jagen; 東京は夜。\n\nEnd <of> it, <tool_call and [A text]."
SEEDS = range(5)


@pytest.fixture(scope="module", autouse=True, params=[False, True], ids=["whole", "incremental"])
def _sglang(request):
    """With outputs of all text so far, and with `--incremental-streaming-output`."""
    with sglang_without_engine(incremental_streaming_output=request.param):
        yield


@pytest.fixture(scope="module")
def tokenizer():
    texts = [write(CALLS["two calls"]) for write in TOOL_CALL_FORMATS.values()]
    return make_tokenizer([*texts, LONG], marks_in([*texts, reasoning("")]))


@pytest.fixture(params=PARSERS)
def serving(request, tokenizer):
    return make_serving(tokenizer, **PARSERS[request.param])


def ids_of(serving, text):
    tokenizer = serving.tokenizer_manager.tokenizer
    return [*tokenizer.encode(text), tokenizer.eos_token_id]


def text_of(parsers):
    return reasoning("") + LONG if "reasoning_parser" in parsers else LONG


@pytest.mark.parametrize("seed", SEEDS)
def test_text_and_usage(serving, seed):
    """Characters of several tokens too, cut anywhere."""
    text = text_of(serving.tokenizer_manager.parsers)
    ids = ids_of(serving, text)
    plain = ask(serving, [[[ids]]], tools=TOOLS)
    assert ask(serving, [cut(ids, seed)], stream=OURS, tools=TOOLS) == plain
    assert plain["usage"]["completion_tokens"] == len(ids)
    assert plain["choices"][0]["text"].strip() == LONG


@pytest.mark.parametrize("seed", SEEDS)
def test_several_choices(serving, seed):
    """Each with its own text, at its own pace."""
    texts = [text_of(serving.tokenizer_manager.parsers) + f" {number}" for number in range(3)]
    ids = [ids_of(serving, text) for text in texts]
    plain = ask(serving, [[[each]] for each in ids], n=3)
    cuts = [cut(each, seed + number) for number, each in enumerate(ids)]
    assert ask(serving, cuts, stream=OURS, n=3) == plain
    assert [choice["text"].strip() for choice in plain["choices"]] == [
        f"{LONG} {number}" for number in range(3)
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stop_string_across_a_cut(serving, seed):
    """SGLang's scheduler holds the beginning of a stop string back until it knows."""
    text = text_of(serving.tokenizer_manager.parsers)
    ids = ids_of(serving, text)[:-1]
    held = ids_of(serving, " THE STOP HERE.")[:-1]
    finish = {"type": "stop", "matched": "STOP HERE"}
    plain = ask(serving, [[[ids + held]]], finish_reason=finish)
    assert ask(serving, [[*cut(ids, seed), [held]]], stream=OURS, finish_reason=finish) == plain
    assert plain["choices"][0]["text"].strip() == f"{LONG} THE"


@pytest.mark.parametrize("seed", SEEDS)
def test_logprobs(serving, seed):
    """One of each token, in order, of those without a text of their own too."""
    ids = ids_of(serving, text_of(serving.tokenizer_manager.parsers))
    plain = ask(serving, [[[ids]]], logprobs=True)
    assert ask(serving, [cut(ids, seed)], stream=OURS, logprobs=True) == plain
    assert ask(serving, [[[[token]] for token in ids]], stream=OURS, logprobs=True) == plain
    assert len(plain["choices"][0]["logprobs"]) == len(ids)


@pytest.mark.parametrize("seed", SEEDS)
def test_completions(tokenizer, seed):
    """No parser reads them: text, logprobs and usage of each step."""
    ids = [*tokenizer.encode(LONG), tokenizer.eos_token_id]
    plain, streamed = asyncio.run(complete(tokenizer, ids, cut(ids, seed)))
    (choice,) = plain["choices"]
    parts = [part for chunk in streamed for part in chunk["choices"]]
    assert "".join(part["text"] for part in parts) == choice["text"]
    for field in ("tokens", "token_logprobs"):
        pieces = [part["logprobs"][field] for part in parts if part["logprobs"]]
        assert [item for piece in pieces for item in piece] == choice["logprobs"][field]
    assert len(choice["logprobs"]["tokens"]) == len(ids)
    usage = plain["usage"].items()
    assert streamed[-1]["usage"] == {name: count for name, count in usage if count is not None}


async def complete(tokenizer, ids, flushes):
    """Return the plain completion, and the chunks of the streamed one."""
    manager = FakeTokenizerManager(tokenizer)
    manager.answers = [[[ids]], flushes]
    manager.finish_reason = {"type": "stop", "matched": tokenizer.eos_token_id}
    handler = OpenAIServingCompletion(manager, SimpleNamespace())
    made = []
    for stream in (False, True):
        options = {"stream_options": {"include_usage": True}} if stream else {}
        request = CompletionRequest(
            model="model", prompt=PROMPT, logprobs=1, stream=stream, **options
        )
        adapted = GenerateReqInput(
            input_ids=[0],
            sampling_params={"skip_special_tokens": True},
            stream=stream,
            return_logprob=True,
            return_text_in_logprobs=True,
        )
        if stream:
            events = handler._generate_completion_stream(adapted, request, None)
            lines = [event.removeprefix("data: ").strip() async for event in events]
            made.append([json.loads(line) for line in lines if line != "[DONE]"])
        else:
            outputs = [output async for output in manager.generate_request(adapted)]
            response = handler._build_completion_response(request, outputs, 0)
            made.append(json.loads(response.model_dump_json()))
    return made
