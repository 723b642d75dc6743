"""Streams of the routes `responses` and `messages` have the calls, in order, in whole blocks."""

import asyncio
import json

import pytest
from sglang.srt.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from sglang.srt.entrypoints.anthropic.serving import AnthropicServing
from sglang.srt.entrypoints.openai.protocol import ResponsesRequest
from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
from sglang.srt.entrypoints.openai.serving_responses import OpenAIServingResponses
from sglang.srt.parser.template_manager import TemplateManager

from handler.engine.sglang.parsed_streams import chat_by_token, response_by_token
from tests.support.parser_outputs.sglang import (
    CALLS,
    REASONING,
    TEXT,
    TOOLS,
    marks_in,
    reasoning,
)
from tests.support.parser_outputs.sglang_calls import TOOL_CALL_FORMATS
from tests.support.sglang_streams import (
    PROMPT,
    FakeTokenizerManager,
    cut,
    make_tokenizer,
    sglang_without_engine,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # SGLang warns while it is imported

SEEDS = range(4)


@pytest.fixture(scope="module", autouse=True)
def _sglang():
    with sglang_without_engine(), pytest.MonkeyPatch.context() as patch:
        for handler, name, by_token in (
            (OpenAIServingChat, "_generate_chat_stream", chat_by_token),
            (OpenAIServingResponses, "_generate_with_builtin_tools", response_by_token),
        ):
            patch.setattr(handler, name, by_token(getattr(handler, name)))
        yield


@pytest.fixture(scope="module")
def tokenizer():
    texts = [write(CALLS["two tools"]) for write in TOOL_CALL_FORMATS.values()]
    made = make_tokenizer([*texts, TEXT], marks_in([*texts, reasoning("")]))
    made.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return made


class Client:
    """Connected all the time."""

    def __init__(self):
        self.headers = {}

    async def is_disconnected(self):
        return False


async def responses(manager):
    """Return what the items of a response's stream say, from their deltas."""
    tools = [{"type": "function", "strict": False, **tool["function"]} for tool in TOOLS]
    request = ResponsesRequest(model="model", input=PROMPT, tools=tools, stream=True, store=False)
    handler = OpenAIServingResponses(manager, TemplateManager())
    items = {}
    async for event in await handler.create_responses(request):
        event = json.loads(event.partition("data: ")[2])
        if event["type"] == "response.output_item.added":
            items[event["output_index"]] = [event["item"].get("name", event["item"]["type"]), ""]
        elif event["type"].endswith(".delta"):
            items[event["output_index"]][1] += event["delta"]
    return [tuple(item) for item in items.values()]


async def messages(manager):
    """Return what the blocks of a message's stream say; one is open at a time."""
    tools = [
        {"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]}
        for tool in TOOLS
    ]
    request = AnthropicMessagesRequest(
        model="model",
        max_tokens=1000,
        messages=[{"role": "user", "content": PROMPT}],
        tools=tools,
        stream=True,
    )
    handler = AnthropicServing(OpenAIServingChat(manager, TemplateManager()))
    response = await handler.handle_messages(request, Client())
    blocks = []
    async for event in response.body_iterator:
        event = json.loads(event.partition("data: ")[2])
        if event["type"] == "content_block_start":
            block = event["content_block"]
            blocks.append([block.get("name", block["type"]), ""])
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1
            delta = event["delta"]
            blocks[-1][1] += next(
                delta[k] for k in ("text", "partial_json", "thinking") if k in delta
            )
    return [tuple(block) for block in blocks]


@pytest.mark.parametrize(
    ("route", "kinds"),
    [(responses, ("reasoning", "message")), (messages, ("thinking", "text"))],
    ids=["responses", "messages"],
)
@pytest.mark.parametrize("parser", ["llama3", "hermes", "qwen25", "deepseekv3", "glm45"])
def test_reasoning_text_and_two_calls(tokenizer, route, kinds, parser):
    text = reasoning("") + TEXT + "\n\n" + TOOL_CALL_FORMATS[parser](CALLS["two tools"])
    manager = FakeTokenizerManager(tokenizer, tool_call_parser=parser, reasoning_parser="qwen3")
    manager.served_model_name = "model"
    manager.context_len, manager.num_reserved_tokens = 8192, 0
    manager.create_abort_task = lambda _: None
    manager.finish_reason = {"type": "stop", "matched": tokenizer.eos_token_id}
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    for seed in SEEDS:
        manager.answers = [cut(ids, seed)]
        items = [(kind, told.strip()) for kind, told in asyncio.run(route(manager))]
        said = [item for item in items if item[1]]  # without the blank line between two calls
        assert said[:2] == list(zip(kinds, (REASONING, TEXT), strict=True))
        assert [(name, json.loads(told)) for name, told in said[2:]] == CALLS["two tools"]
