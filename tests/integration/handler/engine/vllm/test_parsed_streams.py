"""Streams say what plain answers say: for each of vLLM's parsers, however the tokens are cut.

The engine core is scripted, all else is real: the worker, vLLM's app, its parsers and its output
processor.
"""

import pytest

from tests.support.environment import ROOT
from tests.support.parser_outputs import vllm as recorded
from tests.support.scripted_vllm import cut, one_by_one, plain_answer, streamed_answer, tokens_of
from tests.support.streamed_answers import readable, streamed_choices

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported

CHAT = {"messages": [{"role": "user", "content": "Where to?"}]}
WITH_TOOLS = CHAT | {
    "tools": recorded.TOOLS,
    "chat_template_kwargs": {"thinking": True, "enable_thinking": True},
}
CUTS = 2


# ---- all parsers

# Outputs of which vLLM makes something else when it is fed token by token, without this worker.
CALLS = {"one call", "two calls", "nested", "unicode", "nested, then unicode"}
TEXT_AFTER = "the text after a call is streamed, and left out of the plain answer"
NO_CALL = "the plain answer has no call where a text follows it"
DIFFERS = {
    "deepseek_v3": ({"text after"}, TEXT_AFTER),
    "deepseek_v31": ({"text after"}, TEXT_AFTER),
    "dots": ({"text after"}, TEXT_AFTER),
    "functiongemma": (CALLS | {"text before", "text after"}, "streams arguments that are no JSON"),
    "gemma4": ({"text after"}, TEXT_AFTER),
    "gigachat3": ({"text after"}, NO_CALL),
    "glm45": ({"text after"}, TEXT_AFTER),
    "glm47": ({"text after"}, TEXT_AFTER),
    "granite": ({"text after"}, TEXT_AFTER),
    "granite-20b-fc": ({"text before"}, "streams no call after a text"),
    "hunyuan_a13b": (CALLS | {"text before", "text after"}, "streams its tags, and broken calls"),
    "jamba": (CALLS | {"text before", "text after"}, "streams arguments that are no JSON"),
    "ling3": ({"text after"}, TEXT_AFTER),
    "llama3_json": ({"text after"}, NO_CALL),
    "llama4_json": ({"text after"}, NO_CALL),
    "llama4_pythonic": ({"text after"}, NO_CALL),
    "mimo": ({"text after"}, TEXT_AFTER),
    "minicpm5": (CALLS | {"text before", "text after"}, "streams the call as text too"),
    "minimax_m2": ({"text after"}, TEXT_AFTER),
    "mistral": ({"text after"}, "streams the text after a call as its arguments"),
    "muse_glimmer": ({"text"}, "streams no text without the tag that begins it"),
    "olmo3": ({"text before"}, "streams no call after a text"),
    "phi4_mini_json": (
        CALLS - {"nested", "nested, then unicode"} | {"text before", "text after", "text"},
        "streams nothing",
    ),
    "plamo3": ({"text after"}, TEXT_AFTER),
    "poolside_v1": ({"text after"}, TEXT_AFTER),
    "pythonic": ({"text after"}, NO_CALL),
    "qwen3_coder": ({"text after"}, TEXT_AFTER),
    "qwen3_xml": ({"text after"}, TEXT_AFTER),
    "seed_oss": ({"text after"}, TEXT_AFTER),
    "step3p5": ({"text after"}, TEXT_AFTER),
    "xlam": (CALLS - {"nested"} | {"text after"}, "streams arguments as further calls"),
}
REASONING_DIFFERS = {
    "granite": ({"call", "two calls"}, "its tool parser streams no call after a text"),
    "hunyuan_a13b": ({"text", "call", "two calls"}, "knows the token ids of its tokenizer only"),
    "minicpmv": ({"text", "call", "two calls"}, "streams the reasoning as text"),
    "minimax_m2_append_think": ({"text"}, "its tool parser drops the tag, which is text here"),
    "olmo3": ({"call", "two calls"}, "its tool parser streams no call after a text"),
}
NOTHING: tuple[set[str], str] = (set(), "")

# Parsers that cannot be made here, and what they need.
NOT_MADE = {
    "cohere_command3": "the package cohere_melody",
    "cohere_command4": "the package cohere_melody",
    "hf": "a tokenizer with a response template",
    "openai": "harmony's vocabulary; see the last test",
    "openai_gptoss": "harmony's vocabulary; see the last test",
}
# A package that SGLang needs has it.
HARMONY_VOCABULARY = ROOT / ".venv-sglang/lib/python3.11/site-packages/tml_renderers/data"
HARMONY_OUTPUT = (
    "<|channel|>analysis<|message|>I look it up: 東京.<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.find_city <|constrain|>json<|message|>"
    '{"name": "Paris"}<|end|><|start|>assistant'
    "<|channel|>commentary to=functions.find_city <|constrain|>json<|message|>"
    '{"name": "Rome"}<|call|>'
)


def tool_outputs(name):
    """Outputs in the format of one tool parser."""
    write = recorded.TOOL_CALL_FORMATS[name]
    call = write([recorded.CITY])
    return {title: write(calls) for title, calls in recorded.CALLS.items()} | {
        "text before": f"{recorded.TEXT}\n{call}",
        "text after": f"{call}\n{recorded.TEXT}",
        "text": recorded.TEXT,
    }


def reasoning_outputs(name, tool_parser):
    """Outputs in the format of one reasoning parser, with calls in that of a tool parser."""
    write, calls = recorded.REASONING_FORMATS[name], recorded.TOOL_CALL_FORMATS[tool_parser]
    return {
        "text": write(recorded.REASONING, recorded.TEXT),
        "call": write(recorded.REASONING, calls([recorded.CITY])),
        "two calls": write(recorded.REASONING, calls(recorded.CALLS["nested, then unicode"])),
    }


def differing(vllm, outputs, body):
    """Return which outputs differ: cut from token by token, and token by token from plain."""
    cuts, whole = [], set()
    for title, text in outputs.items():
        tokens = tokens_of(vllm, text)
        expected = streamed_answer(vllm, body, one_by_one(tokens))
        for number in range(CUTS):
            steps = cut(tokens, f"{title} {number}")
            if streamed_answer(vllm, body, steps) != expected:
                cuts.append((title, steps))
        if readable(expected) != readable(plain_answer(vllm, text, body)):
            whole.add(title)
    return cuts, whole


@pytest.mark.parametrize("name", recorded.TOOL_CALL_FORMATS)
def test_streamed_calls_are_those_of_the_plain_answer(vllm, name):
    """Also where several calls, or the end of one and a text, come with one flush."""
    vllm.use_parsers(tool_call=name)
    cuts, whole = differing(vllm, tool_outputs(name), WITH_TOOLS)
    assert cuts == []
    assert whole == DIFFERS.get(name, NOTHING)[0]


@pytest.mark.parametrize("name", recorded.REASONING_FORMATS)
def test_streamed_reasoning_is_that_of_the_plain_answer(vllm, name):
    """Before a text and before calls."""
    own = name if name in recorded.TOOL_CALL_FORMATS else "hermes"
    tool_parser = recorded.TOOL_PARSERS.get(name, own)
    vllm.use_parsers(tool_call=tool_parser, reasoning=name)
    cuts, whole = differing(vllm, reasoning_outputs(name, tool_parser), WITH_TOOLS)
    assert cuts == []
    assert whole == REASONING_DIFFERS.get(name, NOTHING)[0]


def test_no_parser_is_left_out():
    """Each has recorded outputs, or says why it has none."""
    from vllm.reasoning import _REASONING_PARSERS_TO_REGISTER as reasoning
    from vllm.tool_parsers import _TOOL_PARSERS_TO_REGISTER as tools

    assert tools.keys() - NOT_MADE.keys() == recorded.TOOL_CALL_FORMATS.keys()
    assert reasoning.keys() - NOT_MADE.keys() == recorded.REASONING_FORMATS.keys()


@pytest.mark.skipif(not HARMONY_VOCABULARY.is_dir(), reason="harmony's vocabulary is not there")
def test_harmonys_parser_makes_the_same_of_many_tokens_as_of_each(monkeypatch):
    """The parser alone: the demo model's tokenizer cannot have harmony's 200,000 tokens."""
    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", str(HARMONY_VOCABULARY))
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.parser.harmony_utils import get_encoding
    from vllm.parser import ParserManager

    from handler.engine.vllm.parsed_streams import DeltaText
    from handler.engine.vllm.token_parser import token_parser

    made = ParserManager.get_parser("openai", "openai_gptoss", True, is_harmony=True)
    request = ChatCompletionRequest(**WITH_TOOLS)
    tokens = get_encoding().encode(HARMONY_OUTPUT, allowed_special="all")

    def streamed(steps):
        parser = token_parser(made)(None, request.tools)
        chunks = []
        for step in steps:
            count = len(step.tokens)
            text = DeltaText("-" * count, range(1, count + 1))
            delta = parser.parse_delta(text, list(step.tokens), request, [1], finished=step.last)
            for each in [delta, *(text.later or ())] if delta else ():
                choices = [{"index": 0, "delta": each.model_dump(), "finish_reason": None}]
                chunks.append({"choices": choices})
        return streamed_choices(chunks)[0]

    expected = streamed(one_by_one(tokens))
    assert expected["calls"] == [
        ("find_city", '{"name": "Paris"}'),
        ("find_city", '{"name": "Rome"}'),
    ]
    assert expected["reasoning"] == "I look it up: 東京."
    for seed in range(5):
        assert streamed(cut(tokens, seed)) == expected
