"""The worker's native input, compatible with those of worker-vllm and worker-sglang.

    {"prompt" | "messages": …, "sampling_params": {…}, …}     like worker-vllm
    {"text" | "input_ids": …, "sampling_params": {…}, …}      like worker-sglang

A field may be at the top level or in `sampling_params`; the top level wins.
"""

from collections.abc import Mapping
from typing import Any

from handler.errors import InvalidInput
from handler.request.client_defaults import convert_stream_word, without_nulls
from handler.request.json_text import json_type
from handler.request.routes import POST

PROMPT_FIELDS = ("prompt", "text", "input_ids")
INPUT_FIELDS = (*PROMPT_FIELDS, "messages")
MAX_TOKENS = "max_tokens"


def is_native(data: Mapping[str, Any]) -> bool:
    """Whether a job's input, without nulls, is native."""
    return not data.keys().isdisjoint(INPUT_FIELDS)


def native_request(data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the engine's path and body for a native input without nulls.

    Raises:
        InvalidInput: the input is invalid.
    """
    body = dict(data)
    sampling = body.pop("sampling_params", {})
    if not isinstance(sampling, dict):
        raise InvalidInput(
            f"sampling_params must be a JSON object, got {json_type(sampling)}.",
            "sampling_params",
        )
    apply_template = body.pop("apply_chat_template", None)
    _check_output_format(body.pop("use_openai_format", True))
    _drop_empty_input(body)
    is_chat = "messages" in body
    if is_chat and apply_template is False:
        raise InvalidInput(
            "messages always use the chat template: send prompt to skip it.",
            "apply_chat_template",
        )
    given = [name for name in PROMPT_FIELDS if name in body]
    if len(given) > 1 or (is_chat and given not in ([], ["input_ids"])):
        other = "messages" if is_chat else given[1]
        raise InvalidInput(f"Send {given[0]} or {other}, not both.", given[0])
    if not is_chat:
        prompt = body.pop(given[0])
        if apply_template:
            is_chat = True
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
    body = {**without_nulls(sampling), **body}
    convert_stream_word(body)
    _translate_logprobs(body, is_chat=is_chat)
    if body.get("stream"):
        body.setdefault("stream_options", {"include_usage": True})
    return POST["chat/completions" if is_chat else "completions"], body


def _drop_empty_input(body: dict[str, Any]) -> None:
    """Drop empty inputs beside a filled one: a web form sends all of its fields."""
    given = [name for name in INPUT_FIELDS if name in body]
    empty = [name for name in given if body[name] in ("", [])]
    if len(empty) < len(given):
        for name in empty:
            del body[name]


def _check_output_format(use_openai_format: object) -> None:
    """Reject `use_openai_format: false`, worker-vllm's own output format."""
    if not use_openai_format:
        raise InvalidInput(
            "The output always has the OpenAI format: remove use_openai_format.",
            "use_openai_format",
        )


def _translate_logprobs(body: dict[str, Any], *, is_chat: bool) -> None:
    """Convert the fields for log probabilities: SGLang, completions and chat differ."""
    count = body.get("logprobs")
    if "return_logprob" in body:
        return_logprob, top = body.pop("return_logprob"), body.pop("top_logprobs_num", 0)
        if return_logprob:
            count = body["logprobs"] = top
    if is_chat and isinstance(count, int) and not isinstance(count, bool):
        body |= {"logprobs": True, "top_logprobs": count}
