"""Bounds on a body's JSON: what passes each, and the error that names its setting."""

import json

import pytest

from handler.errors import InputTooLarge, InvalidInput
from handler.request.body_limits import MAX_FIELDS, RESPONSES_FACTOR, BodyLimits
from handler.request.parse import RequestParser
from handler.settings.environ import load_settings

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, BATCH = "/v1/messages", "/v1/chat/completions/batch"
FIELDS = {
    CHAT: frozenset({"messages", "tools", "chat_template_kwargs", "response_format", "model"}),
    COMPLETIONS: frozenset({"prompt", "model", "truncate_prompt_tokens"}),
    RESPONSES: frozenset({"input", "model"}),
    "/v1/embeddings": frozenset({"input", "model", "truncate_prompt_tokens"}),
    "/tokenize": frozenset({"prompt", "messages", "model"}),
}
LIMITS = BodyLimits(max_values=80, max_items=16, context_tokens=20, max_token_characters=5)
TOO_MANY_VALUES = (
    "The body has more than 100 JSON values, the limit that MAX_JSON_VALUES sets (80, and as many "
    "as the context has tokens)."
)
MESSAGE = {"role": "user", "content": "Hi"}


def parser(limits=LIMITS, **more):
    return RequestParser(["m"], "org/m", FIELDS, body_limits=limits, **more)


def send(path, body, **more):
    """Send a body over HTTP, and in a job; both must be alike."""
    made = parser(**more)
    results = []
    for send_by in (
        lambda: made.parse_http(
            method="POST",
            path=path,
            query="",
            body=json.dumps(body).encode(),
            content_type="application/json",
            request_id="r",
        ),
        lambda: made.parse_job({"id": "r", "input": {"route": path, "body": body}}).request,
    ):
        try:
            results.append(json.loads(send_by().body))
        except (InvalidInput, InputTooLarge) as error:
            results.append((error.status, str(error), error.param))
    assert results[0] == results[1]
    return results[0]


@pytest.mark.parametrize(
    "value",
    [
        lambda count: [1] * (count - 1),
        lambda count: {str(number): "," for number in range(count - 1)},
        lambda count: ['"],[{,'] * (count - 1),
        lambda count: ["\\\\"] * (count - 1),
        lambda count: [[]] * ((count - 1) // 2) + [0] * ((count - 1) % 2),
    ],
    ids=["numbers", "object", "brackets in strings", "backslashes", "empty lists"],
)
def test_a_body_may_have_so_many_values(value):
    """The ones in strings do not count."""

    def body(count):
        return {"messages": [], "metadata": {"x": value(count)}}

    beside = 2 + 1 + 1 - 1  # two fields, the empty list, `x`; and a `value(1)` has none
    assert send(CHAT, body(100 - beside))["messages"] == []
    status, message, name = send(CHAT, body(101 - beside))
    assert (status, message, name) == (413, TOO_MANY_VALUES, "body")


@pytest.mark.parametrize(
    "text",
    [b'"' * 1000, b'["' + b'\\"' * 2000, b'{"a":"' + b"\\", b"[" * 1000, b"[1,1" + b",1" * 500],
    ids=["quotes", "a string without end", "a backslash at the end", "brackets", "numbers"],
)
def test_what_is_no_json_is_counted_too(text):
    """Without an end, and before it is decoded."""
    try:
        LIMITS.check_text(text)
        refused = False
    except InputTooLarge:
        refused = True
    assert refused == (text[:2] in (b'""', b"[[", b"[1"))


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (CHAT, lambda count: {"messages": [MESSAGE] * count}, "messages"),
        (CHAT, lambda count: {"messages": [], "tools": [{}] * count}, "tools"),
        (
            CHAT,
            lambda count: {"messages": [{"role": "user", "content": [{}] * (count - 1)}]},
            "messages",
        ),
        ("/v1/embeddings", lambda count: {"input": ["a"] * count}, "input"),
        ("/v1/embeddings", lambda count: {"input": [[1]] * count}, "input"),
    ],
    ids=["messages", "tools", "parts", "texts", "token lists"],
)
def test_a_body_may_have_so_many_items(path, body, name):
    assert name in send(path, body(16))
    assert send(path, body(17)) == (
        400,
        f"{name} has too many messages, parts, tools or texts: a request may have 16 of them "
        "together (MAX_REQUEST_ITEMS).",
        name,
    )


def test_the_responses_api_may_have_an_eighth():
    """vLLM validates them slowly."""
    assert RESPONSES_FACTOR == 8
    assert "input" in send(RESPONSES, {"input": [MESSAGE] * 2})
    assert send(RESPONSES, {"input": [MESSAGE] * 3})[1] == (
        "input has too many messages, parts, tools or texts: a request may have 2 of them together "
        "(1/8 of MAX_REQUEST_ITEMS)."
    )


def test_the_schema_of_a_tool_is_not_counted_as_items():
    """It has a bound of its own."""
    schema = {"type": "object", "properties": {name: {} for name in "abcdefghijklmnopqr"}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    assert send(CHAT, {"messages": [], "tools": tools})["tools"] == tools


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (COMPLETIONS, lambda text: {"prompt": text}, "prompt"),
        (COMPLETIONS, lambda text: {"prompt": ["Hi", text]}, "prompt"),
        ("/tokenize", lambda text: {"prompt": text}, "prompt"),
        (RESPONSES, lambda text: {"input": text}, "input"),
        ("/v1/embeddings", lambda text: {"input": ["Hi", text]}, "input"),
        ("/v1/rerank", lambda text: {"query": "Hi", "documents": ["Hi", text]}, "documents"),
        ("/v1/rerank", lambda text: {"query": text, "documents": ["Hi"]}, "query"),
        ("/v1/rerank", lambda text: {"query": "a", "documents": [{"text": text}]}, "documents"),
        ("/v1/score", lambda text: {"text_1": "a", "text_2": text}, "text_2"),
        ("/v1/score", lambda text: {"queries": "a", "items": [text]}, "items"),
        (CHAT, lambda text: {"extra_body": {"messages": [{"content": text}]}}, "messages"),
        (CHAT, lambda text: {"messages": [], "chat_template_kwargs": {"": text}}, None),
        (BATCH, lambda text: {"messages": [[{"content": "a"}], [{"content": text}]]}, "messages"),
        *(
            (
                CHAT,
                lambda text, make=make: {"messages": [{"content": "", **make(text)}]},
                "messages",
            )
            for make in (
                lambda text: {"role": text},
                lambda text: {"content": [{"text": text[:50]}, {"text": text[50:]}]},
                lambda text: {"reasoning_content": text},
                lambda text: {"tool_calls": [{"function": {"arguments": text}}]},
                lambda text: {"tool_calls": [{"function": {"arguments": {"image": text[:-5]}}}]},
                lambda text: {"tool_calls": [{"function": {"arguments": {text: 1}}}]},
            )
        ),
        (
            CHAT,
            lambda text: {"messages": [], "tools": [{"function": {"description": text}}]},
            "tools",
        ),
        (
            CHAT,
            lambda text: {
                "messages": [],
                "tools": [{"function": {"parameters": {"description": text[:-11]}}}],
            },
            "tools",
        ),
        (RESPONSES, lambda text: {"input": [{"content": text}]}, "input"),
        (RESPONSES, lambda text: {"input": [{"content": [{"text": text}]}]}, "input"),
        (MESSAGES, lambda text: {"messages": [], "system": [{"text": text}]}, "system"),
        (
            MESSAGES,
            lambda text: {"messages": [{"content": [{"content": [{"text": text}]}]}]},
            "messages",
        ),
    ],
)
def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(path, body, name):
    """Whatever the tokenizer makes of it, and wherever it stands."""
    assert "model" in send(path, body("x" * 100))
    name = name or "chat_template_kwargs"
    assert send(path, body("x" * 101)) == (
        400,
        f"{name} has 101 characters, which cannot fit the context of 20 tokens: the longest token "
        "has 5 characters.",
        name,
    )


def test_all_texts_of_a_conversation_count_together():
    body = {
        "messages": [{"role": "user", "content": "x" * 46}],
        "tools": [{"type": "function", "function": {"name": "f", "description": "y" * 41}}],
    }
    assert "model" in send(CHAT, body)
    body["messages"].append({"content": "x"})
    assert send(CHAT, body) == (
        400,
        "messages and tools have 101 characters, which cannot fit the context of 20 tokens: the "
        "longest token has 5 characters.",
        "messages",
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": ["x" * 100] * 5}),
        ("/v1/embeddings", {"input": ["x" * 100] * 5}),
        ("/v1/rerank", {"query": "x" * 100, "documents": ["x" * 100] * 5}),
        (BATCH, {"messages": [[{"content": "x" * 100}]] * 5}),
        *(
            (CHAT, {"messages": [{"content": [part]}]})
            for part in (
                {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 500}},
                {"type": "image_url", "image_url": "data:image/png;base64," + "A" * 500},
                {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + "A" * 500}},
                {"type": "input_audio", "input_audio": {"data": "A" * 500, "format": "wav"}},
                {"type": "image_embeds", "image_embeds": "A" * 500},
                {"type": "file", "file": {"file_data": "data:text/plain;base64," + "A" * 500}},
            )
        ),
        (
            RESPONSES,
            {
                "input": [
                    {
                        "content": [
                            {
                                "type": "input_image",
                                "image_url": "data:image/png;base64," + "A" * 500,
                            }
                        ]
                    }
                ]
            },
        ),
        (
            RESPONSES,
            {"input": "a", "text": {"format": {"schema": {"description": "x" * 500}}}},
        ),
        (
            MESSAGES,
            {
                "messages": [
                    {
                        "content": [
                            {"type": "image", "source": {"type": "base64", "data": "A" * 500}}
                        ]
                    }
                ]
            },
        ),
        (
            CHAT,
            {
                "messages": [],
                "response_format": {"json_schema": {"schema": {"description": "x" * 500}}},
            },
        ),
    ],
)
def test_media_schemas_of_an_answer_and_several_prompts_pass(path, body):
    """They are not the text of one prompt."""
    assert "model" in send(path, body)


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (COMPLETIONS, {"truncate_prompt_tokens": 10}, "prompt"),
        ("/v1/embeddings", {"truncate_prompt_tokens": -1}, "input"),
        ("/v1/score", {"text_1": "a", "max_tokens_per_doc": 10}, "text_2"),
        (RESPONSES, {"truncation": "auto"}, "input"),
        ("/v2/embed", {}, "texts"),
        ("/v2/embed", {"truncate": "START"}, "texts"),
    ],
)
def test_a_text_that_is_to_be_truncated_may_be_longer(path, body, name):
    """The engine tokenizes all of it: there is an end to that as well."""
    assert "model" in send(path, body | {name: ["x" * 1_000_000]})
    assert send(path, body | {name: ["x" * 1_000_001]}) == (
        400,
        f"{name} has 1000001 characters; a text that is to be truncated may have 1000000.",
        name,
    )


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/tokenize", {"truncation": "auto"}, "prompt"),
        ("/tokenize", {"truncate_prompt_tokens": 1}, "prompt"),
        (COMPLETIONS, {"truncation": "auto"}, "prompt"),
        (COMPLETIONS, {"truncate_prompt_tokens": None}, "prompt"),
        (RESPONSES, {"truncation": "disabled"}, "input"),
        (RESPONSES, {"truncate_prompt_tokens": 1}, "input"),
        ("/v2/embed", {"truncate": "NONE"}, "texts"),
    ],
)
def test_a_field_that_truncates_nothing_on_its_route_changes_nothing(path, body, name):
    status, message, param = send(path, body | {name: ["x" * 101]})
    assert (status, param) == (400, name)
    assert message.startswith(f"{name} has 101 characters, which cannot fit the context")


def test_a_body_may_have_so_many_fields():
    """Each unknown one is compared with all that the engine has."""
    fields = {f"field {number}": 1 for number in range(MAX_FIELDS)}
    limits = BodyLimits(max_values=1000, max_items=16)
    assert send(COMPLETIONS, {"prompt": "Hi"} | fields, limits=limits) == (
        400,
        f"The body has {MAX_FIELDS + 1} fields; the limit is {MAX_FIELDS}.",
        None,
    )


def test_many_items_are_checked_by_the_engines_model_first():
    """A few are not: the engine's own error says more."""
    checked = []
    made = parser(BodyLimits(1000, 1000), validators={CHAT: checked.append})
    for count in (32, 33):
        made.parse_job({"input": {"route": CHAT, "body": {"messages": [MESSAGE] * count}}})
    assert [len(json.loads(content)["messages"]) for content in checked] == [33]


def test_a_body_is_not_longer_for_the_engine_than_from_the_caller():
    """Numbers and nulls stay as they are."""
    values = {"x": [1, None, 1e300, 2**70, float("inf")]}
    body = {"messages": [], "chat_template_kwargs": values, "model": "m"}
    job = {"input": {"route": CHAT, "body": body}}
    assert json.loads(parser().parse_job(job).request.body) == body
    del values["x"][1], values["x"][3]
    compact = json.dumps(body, separators=(",", ":")).encode()
    assert parser().parse_job(job).request.body == compact


def test_the_settings():
    settings = load_settings({"MAX_JSON_VALUES": "7", "MAX_REQUEST_ITEMS": "9"})
    assert BodyLimits.from_settings(settings, 5, None) == BodyLimits(7, 9, 5, None)
