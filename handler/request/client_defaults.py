"""Default values of clients that OpenAI accepts and an engine rejects, and their replacements.

| field           | value               | becomes                                                 |
| --------------- | ------------------- | ------------------------------------------------------- |
| any             | null                | absent                                                  |
| extra_body      | an object           | its fields, as OpenAI's Python client sends them        |
| tools           | []                  | absent, with tool_choice "auto" and parallel_tool_calls |
| tools           | Anthropic's own     | absent if it has no schema: `_drop_server_tools`        |
| stop            | "", [""]            | absent                                                  |
| stream_options  | without `stream`    | absent                                                  |
| top_p           | 0                   | the most probable token: top_k 1                        |
| top_k           | 0                   | off: -1                                                 |
| logprobs        | false               | absent on completions, where it must be a number        |
| response_format | json_object, schema | json_schema: engines ignore that schema                 |
| stream          | "true", "false"     | true, false                                             |
| tool_choice     | "any"               | "required": "any" is Mistral's name                     |
| EMPTY_IS_ABSENT | "", {}              | absent: an empty field of a web form                    |
"""

from collections.abc import Callable, Mapping
from typing import Any

from handler.errors import InvalidInput
from handler.request.json_text import json_type
from handler.request.routes import POST, is_anthropic
from handler.settings.types import FALSE_WORDS, TRUE_WORDS

EXTRA_BODY = "extra_body"
EMPTY_IS_ABSENT = tuple(
    "max_tokens max_completion_tokens temperature top_p top_k min_p n seed stop presence_penalty "
    "frequency_penalty repetition_penalty logprobs top_logprobs logit_bias tool_choice tools "
    "response_format stream chat_template_kwargs user".split()
)
LogOnce = Callable[..., None]


def without_nulls(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body without its null fields."""
    return {name: value for name, value in body.items() if value is not None}


def merge_extra_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body without nulls, with the fields of its `extra_body` at the top level.

    Raises:
        InvalidInput: `extra_body` is not an object.
    """
    fields = without_nulls(body)
    extra = fields.pop(EXTRA_BODY, {})
    if not isinstance(extra, dict):
        raise InvalidInput(
            f"{EXTRA_BODY} must be a JSON object, got {json_type(extra)}.", EXTRA_BODY
        )
    fields |= without_nulls(extra)
    convert_stream_word(fields)
    return fields


def convert_stream_word(body: dict[str, Any]) -> None:
    """Convert `stream` from a string, such as "true", to a boolean, in place."""
    word = body.get("stream")
    if isinstance(word, str) and word.lower() in TRUE_WORDS | FALSE_WORDS:
        body["stream"] = word.lower() in TRUE_WORDS


def replace_defaults(path: str, body: dict[str, Any], log_once: LogOnce) -> None:
    """Replace the values of the table above in `body`, which has no nulls."""
    if is_anthropic(path):
        _drop_server_tools(body, log_once)
    for name in EMPTY_IS_ABSENT:
        if body.get(name) in ("", {}):
            del body[name]
    _drop_empty_tools(body)
    if body.get("tool_choice") == "any":
        body["tool_choice"] = "required"
    for name in ("stop", "stop_sequences"):
        _drop_empty_texts(body, name)
    if not body.get("stream"):
        body.pop("stream_options", None)
    if _is_zero(body.get("top_p")):
        del body["top_p"]
        body["top_k"] = 1
    elif _is_zero(body.get("top_k")):
        body["top_k"] = -1
    if path == POST["completions"] and body.get("logprobs") is False:
        del body["logprobs"]
    _name_schema(body)


def _drop_server_tools(body: dict[str, Any], log_once: LogOnce) -> None:
    """Drop tools that Anthropic's servers or clients define, such as web_search_20250305.

    They have a type but no schema, so the model cannot know their arguments.
    """
    tools = body.get("tools")
    if not isinstance(tools, list):
        return
    left_out = [tool for tool in tools if _has_no_schema(tool)]
    for tool in left_out:
        kind = tool["type"]
        log_once(kind, "the tool %r is ignored: it has no schema", kind[:60])
    body["tools"] = [tool for tool in tools if not _has_no_schema(tool)]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and left_out:
        names = {tool.get("name") for tool in left_out}
        if choice.get("name") in names or (choice.get("type") != "none" and not body["tools"]):
            del body["tool_choice"]


def _has_no_schema(tool: Any) -> bool:
    if not isinstance(tool, dict) or "input_schema" in tool:
        return False
    return isinstance(tool.get("type"), str) and tool["type"] != "custom"


def _drop_empty_tools(body: dict[str, Any]) -> None:
    if body.get("tools") == []:
        del body["tools"]
    if "tools" not in body:
        body.pop("parallel_tool_calls", None)
        if body.get("tool_choice") in ("auto", {"type": "auto"}):
            del body["tool_choice"]


def _drop_empty_texts(body: dict[str, Any], name: str) -> None:
    value = body.get(name)
    if isinstance(value, list):
        value = body[name] = [text for text in value if text != ""]
    if name in body and value in ("", []):
        del body[name]


def _name_schema(body: dict[str, Any]) -> None:
    """Convert llama.cpp's `response_format` with a schema to OpenAI's `json_schema`."""
    given = body.get("response_format")
    if not isinstance(given, dict) or given.get("type") != "json_object":
        return
    if isinstance(schema := given.get("schema"), dict):
        json_schema = {"name": "schema", "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": json_schema}


def _is_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0
