"""A stream has the text, choices, logprobs and usage of the plain answer."""

import pytest
from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat

from handler.engine.sglang.parsed_streams import chat_by_token
from tests.support.parser_outputs.sglang import (
    CALLS,
    TEXT,
    TOOL_CALL_FORMATS,
    TOOLS,
    marks_in,
    reasoning,
)
from tests.support.sglang_streams import (
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
    """One of each token, in order.

    Without a parser SGLang gives those of a step that has no text of its own to nobody: the end of
    a turn, the beginning of a character. So here each flush has some text.
    """
    ids = ids_of(serving, "It is Paris, it is Rome, and it is what I look up there, " * 3 + "End.")
    plain = ask(serving, [[[ids]]], logprobs=True)
    flushes = cut(ids, seed)
    flushes = [*flushes[:-2], [*flushes[-2], *flushes[-1]]]
    assert ask(serving, [flushes], stream=OURS, logprobs=True) == plain
    assert len(plain["choices"][0]["logprobs"]) == len(ids)
