"""Job inputs of every shape become one request, or an error that says what would be right."""

import json

import pytest

from handler.errors import InputTooLarge, InvalidInput, UnknownModel
from handler.request.body import MAX_BODY_BYTES
from handler.request.parse import RequestParser
from handler.request.routes import GET, POST, path_of_input

FIELDS = {
    "/v1/chat/completions": frozenset(
        "messages model temperature top_k logprobs top_logprobs max_tokens stream stream_options"
        " tools".split()
    ),
    "/v1/completions": frozenset(
        "prompt model temperature logprobs max_tokens stream stream_options top_k".split()
    ),
}
MODELS = ("served", "adapter")
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


def read(data, context_tokens=None):
    parser = RequestParser(MODELS, "org/repository", FIELDS, context_tokens=context_tokens)
    return parser.parse_job({"id": "j1", "input": data})


def body(data):
    return json.loads(read(data).request.body)


@pytest.mark.parametrize("name", ["served", "small", "org/repository", "", None])
@pytest.mark.parametrize("routes", [None, frozenset()], ids=["any route", "no adapters"])
def test_every_name_of_the_model_reaches_the_engine_as_the_first(name, routes):
    """Both engines answer with it."""
    parser = RequestParser(MODELS, "org/repository", FIELDS, routes, aliases=["small"])
    job = parser.parse_job({"id": "j1", "input": {"prompt": "Hi", "model": name}})
    assert json.loads(job.request.body)["model"] == "served"
    with pytest.raises(UnknownModel, match=r"Models: served, adapter, small\.$"):
        parser.parse_job({"id": "j1", "input": {"prompt": "Hi", "model": "big"}})


def test_the_openai_shape():
    """The platform's OpenAI route sends the path and the body apart."""
    job = read({"openai_route": "/v1/chat/completions", "openai_input": {"messages": MESSAGES}})
    assert (job.request.method, job.request.path, job.native) == (
        "POST",
        "/v1/chat/completions",
        False,
    )
    assert json.loads(job.request.body) == {"messages": MESSAGES, "model": "served"}
    assert job.request.request_id == "j1"


@pytest.mark.parametrize("empty", [{}, None], ids=["empty", "null"])
def test_an_empty_input_is_a_get(empty):
    """So a client lists the models."""
    request = read({"openai_route": "/v1/models", "openai_input": empty}).request
    assert (request.method, request.path, request.body) == ("GET", "/v1/models", b"")
    assert read({"openai_route": "/v1/models"}).request.method == "GET"


@pytest.mark.parametrize("name", [*POST, *GET])
@pytest.mark.parametrize("spelling", ["{}", "/{}", "/v1/{}", "/openai/v1/{}"])
def test_a_route_may_be_spelled_with_or_without_its_prefix(name, spelling):
    """All lead to the engine's own path."""
    data = {"route": spelling.format(name)}
    if name in POST:
        data["body"] = {"file": "QUJD"}
    assert read(data).request.path == {**POST, **GET}[name]


def test_a_native_chat():
    """Fields stand at the top level or in sampling_params; the top level wins."""
    assert body(
        {
            "messages": MESSAGES,
            "temperature": 0.5,
            "sampling_params": {"temperature": 1, "top_k": 3, "logprobs": 2},
        }
    ) == {
        "messages": MESSAGES,
        "temperature": 0.5,
        "top_k": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "model": "served",
    }


def test_a_native_prompt_goes_to_completions_unless_the_template_is_asked_for():
    """apply_chat_template makes one user message of the prompt."""
    plain = read({"prompt": "Hi", "apply_chat_template": False})
    assert (plain.request.path, plain.native) == ("/v1/completions", True)
    chat = read({"prompt": "Hi", "apply_chat_template": True})
    assert chat.request.path == "/v1/chat/completions"
    assert json.loads(chat.request.body)["messages"] == MESSAGES


@pytest.mark.parametrize(
    ("data", "path", "expected"),
    [
        (
            {"text": "Hi", "sampling_params": {"max_new_tokens": 8, "temperature": None}},
            "/v1/completions",
            {"prompt": "Hi", "max_tokens": 8},
        ),
        ({"input_ids": [1, 2]}, "/v1/completions", {"prompt": [1, 2]}),
        (
            {"text": "Hi", "return_logprob": True, "top_logprobs_num": 2},
            "/v1/completions",
            {"prompt": "Hi", "logprobs": 2},
        ),
        ({"text": "Hi", "return_logprob": False}, "/v1/completions", {"prompt": "Hi"}),
        (
            {"openai_route": None, "openai_input": {}, "messages": None, "prompt": "Hi"},
            "/v1/completions",
            {"prompt": "Hi"},
        ),
        (
            {"messages": MESSAGES, "prompt": None, "sampling_params": None, "tools": None},
            "/v1/chat/completions",
            {"messages": MESSAGES},
        ),
        (
            {"openai_input": {"messages": MESSAGES, "temperature": None}},
            "/v1/chat/completions",
            {"messages": MESSAGES},
        ),
        ({"openai_input": {"prompt": "Hi"}}, "/v1/completions", {"prompt": "Hi"}),
        (
            {"route": "completions", "body": {"prompt": "Hi"}, "method": None, "prompt": None},
            "/v1/completions",
            {"prompt": "Hi"},
        ),
        (
            {
                "prompt": "Hi",
                "use_openai_format": True,
                "max_batch_size": 8,
                "min_batch_size": 1,
                "batch_size_growth_factor": 3,
            },
            "/v1/completions",
            {"prompt": "Hi"},
        ),
        (
            {"messages": MESSAGES, "logprobs": 2},
            "/v1/chat/completions",
            {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2},
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_the_shapes_of_other_workers(data, path, expected):
    """worker-vllm's and worker-sglang's; a key that is null is absent."""
    request = read(data).request
    assert (request.path, json.loads(request.body)) == (path, {**expected, "model": "served"})


def test_a_native_prompt_may_fill_the_context(caplog):
    """The engine's default is 16 tokens, which nobody wants who gives no limit; said once."""
    for _ in range(2):
        assert body({"prompt": "Hi"}) == {"prompt": "Hi", "model": "served"}
    parser = RequestParser(MODELS, "org/repository", FIELDS, context_tokens=4096)
    for data in ({"prompt": "Hi"}, {"text": "Hi", "max_tokens": None}):
        request = parser.parse_job({"id": "j1", "input": data}).request
        assert json.loads(request.body)["max_tokens"] == 4096
    assert caplog.messages == ["a prompt without max_tokens may fill the context of 4096 tokens"]


@pytest.mark.parametrize(
    "data",
    [
        {"prompt": "Hi", "max_tokens": 5},
        {"prompt": "Hi", "sampling_params": {"max_new_tokens": 5}},
        {"openai_route": "completions", "openai_input": {"prompt": "Hi"}},
        {"messages": MESSAGES},
    ],
    ids=["limit", "other name", "OpenAI route", "chat"],
)
def test_any_other_request_keeps_its_own_limit(data):
    """The OpenAI route has OpenAI's default, and a chat goes on by itself."""
    assert json.loads(read(data, 4096).request.body).get("max_tokens") in (5, None)


def test_a_native_stream_counts_its_tokens():
    """They are always counted; a caller who does not want the count does not see it."""
    counted = {"include_usage": True}
    asked = {"prompt": "Hi", "stream": True}
    assert body(asked)["stream_options"] == counted
    assert not read(asked).request.hide_usage
    unseen = asked | {"stream_options": {"include_usage": False}}
    assert body(unseen)["stream_options"] == counted
    assert read(unseen).request.hide_usage


@pytest.mark.parametrize("model", [None, "", "served", "org/repository"])
def test_the_model_may_be_absent_or_have_either_name(model):
    """The engine only knows the served name."""
    assert body({"prompt": "Hi", "model": model})["model"] == "served"


def test_an_adapter_has_the_engines_name():
    """SGLang knows it by the model's name and its own."""
    assert body({"prompt": "Hi", "model": "adapter"})["model"] == "adapter"


def test_an_adapter_is_refused_where_it_would_be_ignored():
    """SGLang answers some routes with the model itself, whatever adapter is named."""
    reader = RequestParser(MODELS, "org/repository", FIELDS, frozenset({"/v1/completions"}))
    wrong = {"route": "responses", "body": {"input": "Hi", "model": "adapter"}}
    with pytest.raises(InvalidInput) as caught:
        reader.parse_job({"id": "j1", "input": wrong})
    assert str(caught.value) == (
        "This engine has LoRA adapters on /v1/completions, not on /v1/responses."
    )
    asked = reader.parse_job({"id": "j1", "input": {"route": "models/adapter"}}).request
    assert asked.transform_response({"data": [{"id": "served"}, {"id": "adapter"}]}) == {
        "id": "adapter"
    }
    right = {"route": "completions", "body": {"prompt": "Hi", "model": "adapter"}}
    assert b"adapter" in reader.parse_job({"id": "j1", "input": right}).request.body


@pytest.mark.parametrize(
    ("name", "card"),
    [("big", "big"), ("small", "small"), ("org/repository", "big"), ("tiny", "big")],
)
def test_one_model_of_the_list_by_each_of_its_names(name, card):
    """Its own entry if it has one; an engine may list the first name only."""
    reader = RequestParser(("big",), "org/repository", FIELDS, aliases=("small", "tiny"))
    request = reader.parse_job({"id": "j1", "input": {"openai_route": f"models/{name}"}}).request
    assert request.transform_response({"data": [{"id": "big"}, {"id": "small"}]}) == {"id": card}


def test_another_model_is_refused():
    """SGLang would answer with the model that it has."""
    with pytest.raises(UnknownModel) as caught:
        read({"prompt": "Hi", "model": "gpt-4"})
    assert str(caught.value) == "The model `gpt-4` does not exist. Models: served, adapter."
    assert (caught.value.status, caught.value.param) == (404, "model")


def test_a_model_that_is_no_name_is_left_to_the_engine():
    """Its validation says what a name is."""
    assert body({"prompt": "Hi", "model": 5})["model"] == 5


@pytest.mark.parametrize(
    ("data", "message", "param"),
    [
        ("Hi", "input must be a JSON object, got a string.", "input"),
        (None, "input must be a JSON object, got null.", "input"),
        ([1], "input must be a JSON object, got a list.", "input"),
        (
            {},
            "input needs openai_route with openai_input, route with body, prompt, messages, "
            "or batch.",
            "input",
        ),
        (
            {"openai_route": "/v1/completions", "openai_input": [1]},
            "The body must be a JSON object, got a list.",
            "body",
        ),
        ({"openai_route": 5}, "route must be a string, got a number.", "route"),
        (
            {"openai_route": "/v1/completions"},
            "/v1/completions is a POST route and needs a body.",
            "body",
        ),
        (
            {"openai_route": "/v1/models", "openai_input": {"a": 1}},
            "/v1/models is a GET route and takes no body.",
            "route",
        ),
        (
            {"route": "models", "method": "DELETE"},
            "method must be GET or POST, got 'DELETE'.",
            "method",
        ),
        (
            {"route": "models", "method": ["GET"]},
            "method must be GET or POST, got a list.",
            "method",
        ),
        (
            {"route": "models", "temperature": 1},
            "'temperature' is not allowed beside route, body and method.",
            "temperature",
        ),
        (
            {"prompt": "a", "messages": MESSAGES},
            "Send prompt or messages, not both.",
            "prompt",
        ),
        (
            {"messages": MESSAGES, "temprature": 1},
            "The engine has no field 'temprature' on /v1/chat/completions: "
            "did you mean 'temperature'?",
            "temprature",
        ),
        (
            {"prompt": "a", "sampling_params": {"zzz": 1}},
            "The engine has no field 'zzz' on /v1/completions.",
            "zzz",
        ),
        (
            {"prompt": "a", "use_openai_format": False},
            "The output always has the OpenAI format: remove use_openai_format.",
            "use_openai_format",
        ),
        ({"text": "a", "prompt": "b"}, "Send prompt or text, not both.", "prompt"),
        ({"text": "a", "messages": MESSAGES}, "Send text or messages, not both.", "text"),
        (
            {"openai_route": "/v1/completions", "openai_input": {"prompt": "a"}, "temperature": 1},
            "'temperature' must be inside openai_input, not beside it.",
            "temperature",
        ),
        (
            {"openai_input": {"messages": MESSAGES, "extra_body": 1}},
            "extra_body must be a JSON object, got a number.",
            "extra_body",
        ),
        (
            {"openai_input": {"messages": MESSAGES, "temprature": 1}},
            "The engine has no field 'temprature' on /v1/chat/completions: "
            "did you mean 'temperature'?",
            "temprature",
        ),
        (
            {"openai_input": {"messages": MESSAGES, "maxTokens": 1}},
            "The engine has no field 'maxTokens' on /v1/chat/completions: "
            "did you mean 'max_tokens'?",
            "maxTokens",
        ),
        (
            {"prompt": "a", "max_new_tokens": 1, "max_tokens": 2},
            "max_new_tokens and max_tokens have different values: send max_tokens only.",
            "max_new_tokens",
        ),
        (
            {"prompt": "a", "sampling_params": [1]},
            "sampling_params must be a JSON object, got a list.",
            "sampling_params",
        ),
        (
            {"messages": MESSAGES, "apply_chat_template": False},
            "messages always use the chat template: send prompt to skip it.",
            "apply_chat_template",
        ),
        (
            {"route": "audio/transcriptions", "body": {"file": "***"}},
            "file is not base64: Only base64 data is allowed.",
            "file",
        ),
        (
            {"route": "audio/transcriptions", "body": {"file": "é"}},
            "file is not base64: string argument should contain only ASCII characters.",
            "file",
        ),
        (
            {"route": "audio/transcriptions", "body": {"language": "en"}},
            "file must be base64 audio or the URL of an audio file.",
            "file",
        ),
    ],
)
def test_bad_input_says_what_was_wrong_and_what_would_be_right(data, message, param):
    """Each message can be acted upon without reading the code."""
    with pytest.raises(InvalidInput) as caught:
        read(data)
    assert (str(caught.value), caught.value.param) == (message, param)


def test_a_body_over_the_limit_is_refused():
    """The limit is the platform's own on its other kind of endpoint."""
    with pytest.raises(InputTooLarge, match=f"the limit is {MAX_BODY_BYTES}"):
        read({"prompt": "x" * MAX_BODY_BYTES})


def test_characters_are_sent_as_they_are():
    """A body is UTF-8."""
    request = read({"prompt": "日本 🦙"}).request
    assert "日本 🦙".encode() in request.body


@pytest.mark.parametrize(
    "data",
    [
        {"prompt": "\ud83e"},
        {"openai_route": "/v1/completions", "openai_input": {"\ud83e": 1}},
        {"openai_route": "/v1/models?x=\ud83e"},
        {"route": "audio/transcriptions", "body": {"file": "aGk=", "language": "\ud83e"}},
    ],
    ids=["value", "name", "query", "form"],
)
def test_half_a_surrogate_pair_is_refused(data):
    """JSON can spell it, UTF-8 cannot: it would crash whatever sends it on."""
    with pytest.raises(InvalidInput, match="a lone surrogate"):
        read(data)


@pytest.mark.parametrize(
    ("data", "path", "body"),
    [
        ({"openai_route": "", "openai_input": {"messages": []}}, CHAT, {"messages": []}),
        ({"route": "", "prompt": "Hi"}, COMPLETIONS, {"prompt": "Hi"}),
        ({"prompt": "", "messages": [{}]}, CHAT, {"messages": [{}]}),
        ({"prompt": "Hi", "messages": []}, COMPLETIONS, {"prompt": "Hi"}),
        ({"prompt": "Hi", "stream": "false"}, COMPLETIONS, {"prompt": "Hi", "stream": False}),
    ],
    ids=["openai_route", "route", "prompt", "messages", "stream"],
)
def test_an_empty_field_of_a_form_is_absent(data, path, body):
    request = read(data).request
    assert request.path == path
    assert json.loads(request.body) == {**body, "model": "served"}


def test_an_input_in_an_input_is_named():
    with pytest.raises(InvalidInput, match="input must not contain another input"):
        read({"input": {"prompt": "Hi"}})


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"openai_route": "/v1/chat/completions"}, "/v1/chat/completions"),
        ({"route": "messages?beta=true"}, "/v1/messages"),
        ({"route": "metrics"}, "/metrics"),
        ({"messages": []}, "/v1/chat/completions"),
        ({"messages": None, "prompt": "Hi"}, "/v1/completions"),
        ({"openai_route": None, "openai_input": {}}, "/v1/chat/completions"),
        ({"openai_input": {"prompt": "Hi"}}, "/v1/completions"),
        ({"text": "Hi"}, "/v1/completions"),
        ({"prompt": "Hi"}, "/v1/completions"),
        ({"route": 7}, None),
        ({"route": ["chat/completions"]}, None),
        ({}, None),
        ("Hi", None),
    ],
)
def test_a_refused_job_counts_for_the_route_that_it_named(data, path):
    """As far as it names one."""
    assert path_of_input(data) == path
