"""Streams of all routes and kinds say what plain answers say, however the tokens are cut."""

import random

import pytest

from tests.support.parser_outputs import vllm as recorded
from tests.support.scripted_vllm import (
    Step,
    cut,
    ended,
    job,
    one_by_one,
    plain_answer,
    streamed_answer,
    tokens_of,
)
from tests.support.streamed_answers import (
    anthropic_blocks,
    events,
    readable,
    response_items,
    streamed_anthropic_blocks,
    streamed_choices,
    streamed_response_items,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported

CHAT = {"messages": [{"role": "user", "content": "Where to?"}]}
WITH_TOOLS = CHAT | {"tools": recorded.TOOLS}


def reasoned_calls(after=""):
    """Reasoning, two calls, and a text after them, as hermes has them."""
    calls = recorded.TOOL_CALL_FORMATS["hermes"](recorded.CALLS["two calls"])
    return recorded.REASONING_FORMATS["qwen3"](recorded.REASONING, calls) + after


def test_native_chunks_put_together_are_the_plain_answer(vllm):
    """Merged objects instead of events."""
    vllm.use_parsers(tool_call="hermes", reasoning="qwen3")
    text = reasoned_calls()
    for seed in range(5):
        steps = cut(tokens_of(vllm, text), seed)
        chunks = vllm.outputs({**WITH_TOOLS, "stream": True}, steps)
        answer = plain_answer(vllm, text, WITH_TOOLS)
        assert readable(streamed_choices(chunks)[0]) == readable(answer)


ANTHROPIC_TOOLS = [
    {
        "name": tool["function"]["name"],
        "description": tool["function"]["description"],
        "input_schema": tool["function"]["parameters"],
    }
    for tool in recorded.TOOLS
]
RESPONSES_TOOLS = [{"type": "function", **tool["function"]} for tool in recorded.TOOLS]
ROUTES = {
    "/v1/messages": (
        CHAT | {"tools": ANTHROPIC_TOOLS, "max_tokens": 500},
        anthropic_blocks,
        streamed_anthropic_blocks,
    ),
    "/v1/responses": (
        {"input": "Where to?", "tools": RESPONSES_TOOLS, "store": False},
        response_items,
        streamed_response_items,
    ),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("tool_call", "reasoning", "after"),
    [
        ("hermes", "qwen3", ""),
        ("llama3_json", None, ""),
        ("deepseek_v31", "deepseek_r1", recorded.TEXT),
        ("kimi_k2", "kimi_k2", ""),
        ("glm47", "glm47", recorded.TEXT),
    ],
    ids=["hermes", "llama3_json", "deepseek_v31, text after", "kimi_k2", "glm47, text after"],
)
def test_routes_of_other_clients_keep_calls_apart(vllm, route, tool_call, reasoning, after):
    """A flush with the end of a call and what follows it becomes events in their order."""
    vllm.use_parsers(tool_call=tool_call, reasoning=reasoning)
    body, plain, streamed = ROUTES[route]
    text = recorded.TOOL_CALL_FORMATS[tool_call](recorded.CALLS["two calls"]) + after
    if reasoning:
        text = recorded.REASONING_FORMATS[reasoning](recorded.REASONING, text)
    tokens = tokens_of(vllm, text)
    [answer] = vllm.outputs(job(body, False, route), one_by_one(tokens))
    expected = streamed(events(vllm.outputs(job(body, True, route), one_by_one(tokens))))
    assert expected["calls"] == plain(answer)["calls"] == recorded.CALLS["two calls"]
    for seed in range(6):
        steps = cut(tokens, seed)
        assert streamed(events(vllm.outputs(job(body, True, route), steps))) == expected


@pytest.mark.parametrize("route", ROUTES)
def test_reasoning_between_calls_loses_none(vllm, route):
    """One flush has the end of a call, reasoning, and the next call."""
    vllm.use_parsers(tool_call="glm47", reasoning="glm47")
    body, _, streamed = ROUTES[route]
    call, think = recorded.TOOL_CALL_FORMATS["glm47"], recorded.REASONING_FORMATS["glm47"]
    text = think("First.", call([recorded.CITY])) + think("Then.", call([recorded.SECOND]))
    tokens = tokens_of(vllm, text)
    expected = streamed(events(vllm.outputs(job(body, True, route), one_by_one(tokens))))
    assert expected["calls"] == [recorded.CITY, recorded.SECOND]
    for seed in range(6):
        steps = cut(tokens, seed)
        assert streamed(events(vllm.outputs(job(body, True, route), steps))) == expected


# ---- what else a stream has

PARSERS = {"none": {}, "tools and reasoning": {"tool_call": "hermes", "reasoning": "qwen3"}}
with_and_without = pytest.mark.parametrize("parsers", PARSERS.values(), ids=PARSERS)


def streamed_chunks(vllm, body, steps, choices=1):
    return events(vllm.outputs(job(body, stream=True), steps, choices))


@with_and_without
def test_log_probabilities_are_one_a_token(vllm, parsers):
    """As those of the plain answer, in their order."""
    vllm.use_parsers(**parsers)
    body = WITH_TOOLS if parsers else CHAT
    body = {**body, "logprobs": True, "top_logprobs": 1}
    tokens = tokens_of(vllm, reasoned_calls(recorded.TEXT))
    [answer] = vllm.outputs(job(body, stream=False), one_by_one(tokens))
    expected = answer["choices"][0]["logprobs"]["content"]
    assert len(expected) == len(tokens)
    for seed in range(5):
        chunks = streamed_chunks(vllm, body, cut(tokens, seed))
        parts = [choice.get("logprobs") for chunk in chunks for choice in chunk["choices"]]
        assert [each for part in parts if part for each in part["content"]] == expected


@with_and_without
def test_choices_of_one_request_are_told_apart(vllm, parsers):
    """With n = 2 each has its own parser, and they end one after the other."""
    vllm.use_parsers(**parsers)
    body = {**(WITH_TOOLS if parsers else CHAT), "n": 2}
    texts = [reasoned_calls(), recorded.REASONING_FORMATS["qwen3"]("Hm.", recorded.TEXT)]
    expected = {
        number: plain_answer(vllm, text, body | {"n": 1}) for number, text in enumerate(texts)
    }
    for seed in range(5):
        scripts = [cut(tokens_of(vllm, text), seed, number) for number, text in enumerate(texts)]
        chance, steps = random.Random(seed), []
        while any(scripts):
            steps.append(chance.choice([script for script in scripts if script]).pop(0))
        found = streamed_choices(streamed_chunks(vllm, body, steps, choices=2))
        assert {index: readable(choice) for index, choice in sorted(found.items())} == {
            index: readable(choice) for index, choice in expected.items()
        }


@with_and_without
@pytest.mark.parametrize("included", [False, True], ids=["left out", "included"])
def test_a_stop_string_ends_the_stream_as_the_plain_answer(vllm, parsers, included):
    """Also where two tokens make it, and where a step brings what follows."""
    vllm.use_parsers(**parsers)
    body = {
        **(WITH_TOOLS if parsers else CHAT),
        "stop": ["ça va", "no such text"],
        "include_stop_str_in_output": included,
    }
    text = recorded.REASONING_FORMATS["qwen3"](recorded.REASONING, recorded.TEXT)
    answer = plain_answer(vllm, text, body)
    assert answer["finish_reason"] == "stop"
    assert answer["text"].endswith("{so}: ça va" if included else "{so}: ")
    for seed in range(6):
        steps = cut(tokens_of(vllm, text), seed)
        assert readable(streamed_answer(vllm, body, steps)) == readable(answer)


@with_and_without
def test_usage_counts_the_tokens_of_all_steps(vllm, parsers):
    """Those of the reasoning as token by token, where vLLM counts others than in plain answers."""
    vllm.use_parsers(**parsers)
    body = {**(WITH_TOOLS if parsers else CHAT), "stream_options": {"include_usage": True}}
    tokens = tokens_of(vllm, reasoned_calls(recorded.TEXT))
    expected = streamed_chunks(vllm, body, one_by_one(tokens))[-1]["usage"]
    assert expected["completion_tokens"] == len(tokens)
    for seed in range(3):
        assert streamed_chunks(vllm, body, cut(tokens, seed))[-1]["usage"] == expected


def test_completions_are_streamed_as_they_are(vllm):
    """No parser stands in their way, on a worker that has some too."""
    vllm.use_parsers(**PARSERS["tools and reasoning"])
    route, body = "/v1/completions", {"prompt": "Where to?", "logprobs": 1, "max_tokens": 500}
    tokens = tokens_of(vllm, recorded.TEXT)
    [answer] = vllm.outputs(job(body, False, route), one_by_one(tokens))
    [expected] = answer["choices"]
    assert expected["text"] == recorded.TEXT
    for seed in range(4):
        chunks = events(vllm.outputs(job(body, True, route), cut(tokens, seed)))
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        assert "".join(choice["text"] for choice in choices) == expected["text"]
        streamed = [choice["logprobs"] for choice in choices if choice["logprobs"]]
        for name in ("tokens", "token_logprobs", "top_logprobs"):
            assert [each for part in streamed for each in part[name]] == expected["logprobs"][name]


def test_what_is_merged_is_one_chunk(vllm):
    """A flush costs one event however many tokens it has: the role, the first token, the rest."""
    vllm.use_parsers(**PARSERS["tools and reasoning"])
    tokens = tokens_of(vllm, reasoned_calls(recorded.TEXT))
    steps = ended([Step([token], flush=False) for token in tokens])
    assert len(streamed_chunks(vllm, WITH_TOOLS, steps)) <= 3
