"""What a client has in the end: a plain answer, or the chunks of a stream put together."""

import json
from collections.abc import Iterable
from typing import Any


def events(outputs: Iterable[str]) -> list[Any]:
    """Return the JSON of the events in a stream's texts."""
    data = [line[5:].strip() for line in "".join(outputs).split("\n") if line.startswith("data:")]
    return [json.loads(each) for each in data if each != "[DONE]"]


def plain_choices(answer: Any) -> dict[int, Any]:
    """Return reasoning, text, calls and reason of each choice of a plain chat."""
    return {choice["index"]: _choice(choice, choice["message"]) for choice in answer["choices"]}


def streamed_choices(chunks: Iterable[Any]) -> dict[int, Any]:
    """Put the chunks of a chat together, as OpenAI's client does."""
    joined: dict[int, Any] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            empty = {"reasoning": "", "content": "", "tool_calls": {}}
            known = joined.setdefault(choice["index"], empty | {"finish_reason": None})
            known["finish_reason"] = choice.get("finish_reason") or known["finish_reason"]
            delta = choice["delta"]
            for name in ("reasoning", "content"):
                known[name] += delta.get(name) or ""
            for call in delta.get("tool_calls") or ():
                function = known["tool_calls"].setdefault(
                    call["index"], {"name": "", "arguments": ""}
                )
                for name, text in (call.get("function") or {}).items():
                    function[name] += text or ""
    for choice in joined.values():
        functions = [choice["tool_calls"][index] for index in sorted(choice["tool_calls"])]
        choice["tool_calls"] = [{"function": function} for function in functions]
    return {index: _choice(choice, choice) for index, choice in joined.items()}


def _choice(choice: Any, message: Any) -> Any:
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return {
        "reasoning": message.get("reasoning") or "",
        "text": message.get("content") or "",
        "calls": [(function["name"], function["arguments"]) for function in functions],
        "finish_reason": choice["finish_reason"],
    }


def anthropic_blocks(message: Any) -> Any:
    """Return thinking, text and calls of a plain message of Anthropic's route."""
    blocks = message["content"]
    return {
        "reasoning": "".join(block.get("thinking") or "" for block in blocks),
        "text": "".join(block.get("text") or "" for block in blocks),
        "calls": [(each["name"], each["input"]) for each in blocks if each["type"] == "tool_use"],
    }


def streamed_anthropic_blocks(streamed: Iterable[Any]) -> Any:
    """Put the events of Anthropic's route together."""
    blocks: dict[int, Any] = {}
    for event in streamed:
        if event["type"] == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"]) | {"json": ""}
        elif event["type"] == "content_block_delta":
            block, delta = blocks[event["index"]], event["delta"]
            for name in ("text", "thinking"):
                block[name] = (block.get(name) or "") + (delta.get(name) or "")
            block["json"] += delta.get("partial_json") or ""
    for block in blocks.values():
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["json"])
    return anthropic_blocks({"content": list(blocks.values())})


def response_items(response: Any) -> Any:
    """Return reasoning, text and calls of a plain answer of the responses route."""
    items = response["output"]
    texts: dict[str, list[str]] = {"reasoning": [], "message": []}
    for item in items:
        if item["type"] in texts:
            texts[item["type"]] += [part["text"] for part in item["content"]]
    calls = [item for item in items if item["type"] == "function_call"]
    return {
        "reasoning": "".join(texts["reasoning"]),
        "text": "".join(texts["message"]),
        "calls": [(call["name"], json.loads(call["arguments"])) for call in calls],
    }


def streamed_response_items(streamed: Iterable[Any]) -> Any:
    """Put the events of the responses route together, from their deltas."""
    items: dict[int, Any] = {}
    for event in streamed:
        if event["type"] == "response.output_item.added":
            items[event["output_index"]] = dict(event["item"]) | {"content": [{"text": ""}]}
        elif event["type"].endswith(".delta"):
            item = items[event["output_index"]]
            if item["type"] == "function_call":
                item["arguments"] += event["delta"]
            else:
                item["content"][0]["text"] += event["delta"]
    return response_items({"output": list(items.values())})


def readable(answer: Any) -> Any:
    """Arguments as values, and texts without the blanks around them, which vLLM treats freely."""
    calls = [(name, _value(arguments)) for name, arguments in answer["calls"]]
    texts = {name: answer[name].strip() for name in ("reasoning", "text")}
    return answer | texts | {"calls": calls}


def _value(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments
