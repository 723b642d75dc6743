"""Job inputs of every shape become one request, or an error that says what would be right."""

import base64
import json

import pytest

from handler.errors import InputTooLarge, InvalidInput, UnknownModel, UnknownRoute
from handler.request.parse import MAX_BODY_BYTES, RequestParser
from handler.request.routes import GET, POST, path_of_input

FIELDS = {
    "/v1/chat/completions": frozenset(
        "messages model temperature top_k logprobs top_logprobs max_tokens stream stream_options"
        " tools".split()
    ),
    "/v1/completions": frozenset("prompt model temperature logprobs stream stream_options".split()),
}
MODELS = ("served", "adapter")
MESSAGES = [{"role": "user", "content": "Hi"}]


def read(data, **job):
    return RequestParser(MODELS, "org/repository", FIELDS).parse_job(
        {"id": "j1", "input": data, **job}
    )


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


@pytest.mark.parametrize(
    "route", ["/v1/load_lora_adapter", "/scale_elastic_ep", "/docs", "", "/v1/chat/completions/x"]
)
def test_any_other_route_is_a_404_that_names_the_allowed_ones(route):
    """Administrative routes of the engine's app are not for callers."""
    with pytest.raises(UnknownRoute) as caught:
        read({"openai_route": route, "openai_input": {"a": 1}})
    assert str(caught.value) == (
        f"There is no route {route!r}. Routes: chat/completions, completions, responses, messages, "
        "messages/count_tokens, embeddings, rerank, score, classify, audio/transcriptions, "
        "tokenize, detokenize, models, health, version, metrics."
    )


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
        "/v1/responses takes no LoRA adapter with this engine; /v1/completions do."
    )
    right = {"route": "completions", "body": {"prompt": "Hi", "model": "adapter"}}
    assert b"adapter" in reader.parse_job({"id": "j1", "input": right}).request.body


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
            {"route": "models", "temperature": 1},
            "'temperature' is not allowed beside route; give route, body, method.",
            "temperature",
        ),
        (
            {"prompt": "a", "messages": MESSAGES},
            "Give prompt or messages, not both.",
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
            {"prompt": "a", "batch_size": 1},
            "The engine has no field 'batch_size' on /v1/completions: "
            "the worker paces streams; leave it out.",
            "batch_size",
        ),
        (
            {"prompt": "a", "sampling_params": [1]},
            "sampling_params must be a JSON object, got a list.",
            "sampling_params",
        ),
        (
            {"messages": MESSAGES, "apply_chat_template": False},
            "messages always go through the chat template; give prompt to go without it.",
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
            "file must be the audio file in base64.",
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


def test_audio_becomes_a_form():
    """The transcription route takes a form; a job is JSON."""
    sound = base64.b64encode(b"RIFF").decode()
    data = {"file": f"data:audio/wav;base64,{sound}", "language": "en"}
    request = read({"route": "audio/transcriptions", "body": data}).request
    assert request.content_type.startswith("multipart/form-data; boundary=")
    assert b'name="file"; filename="upload"\r\n' in request.body
    assert b"\r\n\r\nRIFF\r\n" in request.body
    assert b'name="language"\r\n\r\nen\r\n' in request.body
    assert b'name="model"\r\n\r\nserved\r\n' in request.body


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
    with pytest.raises(InvalidInput, match="half a surrogate pair"):
        read(data)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"openai_route": "/v1/chat/completions"}, "/v1/chat/completions"),
        ({"route": "messages?beta=true"}, "/v1/messages"),
        ({"route": "metrics"}, "/metrics"),
        ({"messages": []}, "/v1/chat/completions"),
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
