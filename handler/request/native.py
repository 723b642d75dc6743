"""The worker's native input, and those of other workers that look like it, as one engine request.

    {"prompt" | "messages": …, "sampling_params": {…}, …}     worker-vllm's too
    {"text" | "input_ids": …, "sampling_params": {…}, …}      worker-sglang's, SGLang's own names

A field stands at the top level or in `sampling_params`; the top level wins.
"""

from collections.abc import Mapping
from typing import Any

from handler.errors import InvalidInput
from handler.request.client_defaults import read_stream, without_nulls
from handler.request.json_text import json_type
from handler.request.routes import POST

PROMPT_FIELDS = ("prompt", "text", "input_ids")
INPUT_FIELDS = (*PROMPT_FIELDS, "messages")
MAX_TOKENS = "max_tokens"


def is_native(data: Mapping[str, Any]) -> bool:
    """Whether a job's input, which has no nulls, is native."""
    return not data.keys().isdisjoint(INPUT_FIELDS)


def native_request(data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return path and body for a native input that has no nulls.

    Raises:
        InvalidInput: what is wrong and what would be right.
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
            "messages always go through the chat template; give prompt to go without it.",
            "apply_chat_template",
        )
    given = [name for name in PROMPT_FIELDS if name in body]
    if len(given) > 1 or (is_chat and given not in ([], ["input_ids"])):
        other = "messages" if is_chat else given[1]
        raise InvalidInput(f"Give {given[0]} or {other}, not both.", given[0])
    if not is_chat:
        prompt = body.pop(given[0])
        if apply_template:
            is_chat = True
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
    body = {**without_nulls(sampling), **body}
    read_stream(body)
    _translate_logprobs(body, is_chat=is_chat)
    if body.get("stream"):
        body.setdefault("stream_options", {"include_usage": True})
    return POST["chat/completions" if is_chat else "completions"], body


def _drop_empty_input(body: dict[str, Any]) -> None:
    """Drop the empty ones of several inputs, as a form sends them."""
    given = [name for name in INPUT_FIELDS if name in body]
    empty = [name for name in given if body[name] in ("", [])]
    if len(empty) < len(given):
        for name in empty:
            del body[name]


def _check_output_format(use_openai_format: object) -> None:
    """worker-vllm's own format is gone."""
    if not use_openai_format:
        raise InvalidInput(
            "The output always has the OpenAI format: leave use_openai_format out.",
            "use_openai_format",
        )


def _translate_logprobs(body: dict[str, Any], *, is_chat: bool) -> None:
    """Spell log probabilities as the route does: SGLang, completions and chat differ."""
    count = body.get("logprobs")
    if "return_logprob" in body:
        wanted, top = body.pop("return_logprob"), body.pop("top_logprobs_num", 0)
        if wanted:
            count = body["logprobs"] = top
    if is_chat and isinstance(count, int) and not isinstance(count, bool):
        body |= {"logprobs": True, "top_logprobs": count}
