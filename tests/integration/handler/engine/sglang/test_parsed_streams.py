"""A stream of SGLang says what the plain answer says, however its tokens are cut into steps."""

import json

import pytest
from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.parser.beam import BEAM_RESPONSE_TEMPLATE
from sglang.srt.parser.reasoning_parser import ReasoningParser

from handler.engine.sglang.parsed_streams import chat_by_token
from handler.engine.sglang.token_texts import TokenTexts
from tests.support.parser_outputs.sglang import (
    AROUND_REASONING,
    CALLS,
    OPENING,
    REASONING,
    TEXT,
    TOOLS,
    answer,
    marks_in,
    reasoning,
    text_before_calls,
)
from tests.support.parser_outputs.sglang_calls import TOOL_CALL_FORMATS
from tests.support.sglang_streams import (
    ask,
    cut,
    make_serving,
    make_tokenizer,
    sglang_without_engine,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # SGLang warns while it is imported

SGLANGS = OpenAIServingChat._generate_chat_stream
OURS = chat_by_token(SGLANGS)
SEEDS = range(2)

# Where SGLang's own stream, a token at a time, is not its plain answer: parser, case, reason.
DIFFERENT = {
    (parser, case): reason
    for reason, parsers, case in (
        (
            "a plain answer ends with the calls",
            "cohere_command4 deepseekv3 deepseekv31",
            "text after",
        ),
        ("a plain answer ends with the calls", "dots gemma4 glm glm45", "text after"),
        ("a plain answer ends with the calls", "hermes hunyuan kimi_k2 lfm2 ling3", "text after"),
        (
            "a plain answer ends with the calls",
            "nanbeige poolside_v1 qwen3_coder step3p5",
            "text after",
        ),
        ("a stream ends with the calls", "minicpm5 minimax-m2", "text after"),
        ("a plain answer has no call that a text follows", "gigachat3", "text after"),
        ("a plain answer has one call at the most", "gigachat3", "two calls"),
        ("a plain answer has one call at the most", "gigachat3", "two tools"),
        ("a stream joins the calls of one tool", "cohere_command4 gemma4", "two calls"),
        ("a stream orders the calls by their tools", "cohere_command4 gemma4", "two tools"),
        ("a stream has the first call only", "interns1 mistral", "two calls"),
        ("a stream has the first call only", "interns1 mistral", "two tools"),
    )
    for parser in parsers.split()
}


@pytest.fixture(scope="module", autouse=True)
def _sglang():
    with sglang_without_engine():
        yield


@pytest.fixture(scope="module")
def tokenizer():
    texts = [write(calls) for write in TOOL_CALL_FORMATS.values() for calls in CALLS.values()]
    texts += [reasoning(parser) + answer(parser) for parser in (*AROUND_REASONING, "")]
    made = make_tokenizer(texts, marks_in(texts))
    made.response_template = BEAM_RESPONSE_TEMPLATE
    return made


def answers(serving, text, **fields):
    """Return the plain answer, SGLang's stream token by token, and ours of several cuts."""
    tokenizer = serving.tokenizer_manager.tokenizer
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    one_by_one = [[[token]] for token in ids]
    plain = ask(serving, [one_by_one], **fields)
    expected = ask(serving, [one_by_one], stream=SGLANGS, **fields)
    ours = [ask(serving, [cut(ids, seed)], stream=OURS, **fields) for seed in SEEDS]
    return plain, expected, ours


def told(answer):
    """What an answer says: arguments are JSON, and blanks around a text say nothing."""
    (choice,) = answer["choices"]
    return {
        "text": choice["text"].strip(),
        "reasoning": choice["reasoning"].strip(),
        "calls": [(name, parsed(arguments)) for name, arguments in choice["calls"]],
        "finish_reason": choice["finish_reason"],
    }


def parsed(arguments):
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def test_each_parser_has_outputs():
    assert TOOL_CALL_FORMATS.keys() == FunctionCallParser.ToolCallParserEnum.keys()
    assert AROUND_REASONING.keys() - ReasoningParser.DetectorMap.keys() == set()
    assert CALLED_BY.keys() == ReasoningParser.DetectorMap.keys()


# The parser of tool calls that a parser of reasoning is used with.
CALLED_BY = dict.fromkeys(ReasoningParser.DetectorMap, "qwen25") | {
    "apertus2509": "apertus2509",
    "beam": "beam",
    "cohere_command4": "cohere_command4",
    "deepseek-r1": "deepseekv3",
    "deepseek-v3": "deepseekv31",
    "deepseek-v4": "deepseekv4",
    "deepseek-v41": "deepseekv41",
    "dots": "dots",
    "gemma4": "gemma4",
    "gigachat35": "gigachat35",
    "glm45": "glm45",
    "gpt-oss": "gpt-oss",
    "hunyuan": "hunyuan",
    "inkling": "inkling",
    "interns1": "interns1",
    "iquest_q1": "iquest_q1",
    "k2_horizon": "k2_horizon",
    "kimi_k2": "kimi_k2",
    "kimi_k3": "kimi_k3",
    "ling3": "ling3",
    "mimo": "mimo",
    "minimax": "minimax-m2",
    "minimax-append-think": "minimax-m2",
    "minimax-m3": "minimax-m3",
    "mistral": "mistral",
    "muse": "muse",
    "nanbeige": "nanbeige",
    "nemotron_3": "qwen3_coder",
    "poolside_v1": "poolside_v1",
    "response_template": "response_template",
    "step3": "step3",
    "step3p5": "step3p5",
}
# It leaves the reasoning in the text.
IN_THE_TEXT = {"minimax-append-think"}


TEXTS = {  # of a parser: what stands before the calls, the calls, what stands after them
    **{name: (lambda _: "", calls, "") for name, calls in CALLS.items()},
    "text before": (lambda parser: text_before_calls(parser, TEXT), CALLS["one call"], ""),
    "text after": (lambda _: "", CALLS["one call"], f" {TEXT}"),
}


@pytest.mark.parametrize(
    "text", [TEXT, "東京は夜🥊🥊、\n雨 → é"], ids=["words", "parts of characters"]
)
@pytest.mark.parametrize("seed", range(10))
def test_a_parser_gets_the_text_of_each_token(tokenizer, monkeypatch, text, seed):
    """As SGLang's detokenizer sends it for one token at a time."""
    deltas = []

    def record(_, delta):
        deltas.append(delta)
        return delta, []

    monkeypatch.setattr(FunctionCallParser, "parse_stream_chunk", record)
    serving = make_serving(tokenizer, tool_call_parser="llama3")
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    ask(serving, [[[[token]] for token in ids]], stream=SGLANGS, tools=TOOLS)
    expected, deltas[:] = deltas[:], []
    ask(serving, [cut(ids, seed)], stream=OURS, tools=TOOLS)
    assert [delta for delta in deltas if delta] == [delta for delta in expected if delta]
    assert len(deltas) >= len(ids)


def test_a_tokenizer_that_drops_the_first_space():
    """The detokenizer has the prompt before it and keeps the space."""
    words = [" One", " two", " three", " four"]
    texts = TokenTexts(lambda ids: "".join(words[i] for i in ids)[1:], incremental=False)
    meta_info = {"completion_tokens": 4, "finish_reason": None}
    parts = texts.split({"text": "".join(words), "output_ids": range(4), "meta_info": meta_info})
    assert [part["text"] for part in parts] == [
        " One",
        " One two",
        " One two three",
        " One two three four",
    ]


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("parser", TOOL_CALL_FORMATS)
def test_streamed_calls_are_the_plain_ones(tokenizer, parser, case):
    before, calls, after = TEXTS[case]
    text = OPENING.get(parser, "") + before(parser) + TOOL_CALL_FORMATS[parser](calls) + after
    serving = make_serving(tokenizer, tool_call_parser=parser)
    plain, expected, ours = answers(serving, text, tools=TOOLS)
    assert ours == [expected] * len(SEEDS)
    assert (told(plain) != told(expected)) == ((parser, case) in DIFFERENT)
    if not after and (parser, case) not in DIFFERENT:
        assert told(plain)["calls"] == calls


def thinking(parser):
    """Fields of a request that has the model think: most do anyway."""
    return {"chat_template_kwargs": {"thinking": True}} if parser.startswith("deepseek-v4") else {}


@pytest.mark.parametrize("parser", ReasoningParser.DetectorMap)
def test_streamed_reasoning_is_the_plain_one(tokenizer, parser):
    serving = make_serving(tokenizer, reasoning_parser=parser)
    text = reasoning(parser) + answer(parser)
    plain, expected, ours = answers(serving, text, **thinking(parser))
    assert ours == [expected] * len(SEEDS)
    assert told(plain) == told(expected)
    if parser not in IN_THE_TEXT:
        assert (told(plain)["reasoning"], told(plain)["text"]) == (REASONING, TEXT)


@pytest.mark.parametrize("parser", ReasoningParser.DetectorMap)
def test_reasoning_that_the_prompt_has_opened(tokenizer, parser):
    """Or that a parser does not see without its first mark; then it is text."""
    serving = make_serving(tokenizer, reasoning_parser=parser)
    text = (reasoning(parser) + answer(parser)).partition(REASONING)
    plain, expected, ours = answers(serving, "".join(text[1:]), **thinking(parser))
    assert ours == [expected] * len(SEEDS)
    assert told(plain) == told(expected)


@pytest.mark.parametrize("parser", ReasoningParser.DetectorMap)
def test_reasoning_before_calls(tokenizer, parser):
    tool_call_parser = CALLED_BY[parser]
    text = reasoning(parser) + TOOL_CALL_FORMATS[tool_call_parser](CALLS["two tools"])
    serving = make_serving(tokenizer, reasoning_parser=parser, tool_call_parser=tool_call_parser)
    plain, expected, ours = answers(serving, text, tools=TOOLS, **thinking(parser))
    assert ours == [expected] * len(SEEDS)
    assert told(plain)["calls"] == CALLS["two tools"]
    different = (tool_call_parser, "two tools") in DIFFERENT
    assert (told(plain) != told(expected)) == different


def test_calls_that_a_request_demands(tokenizer):
    """A JSON array, which SGLang's grammar makes the model write."""
    calls = [{"name": name, "parameters": arguments} for name, arguments in CALLS["two tools"]]
    serving = make_serving(tokenizer, tool_call_parser="pythonic")
    plain, expected, ours = answers(serving, json.dumps(calls), tools=TOOLS, tool_choice="required")
    assert ours == [expected] * len(SEEDS)
    assert told(plain) == told(expected)
    assert told(plain)["calls"] == CALLS["two tools"]
