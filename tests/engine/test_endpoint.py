"""What callers do with an endpoint, through the official clients and the real engines.

Three times: through the queue with each engine, and over HTTP with vLLM.
"""

import asyncio
import json

import anthropic
import openai
import pytest

from tests.engine.conftest import ANSWERS

pytestmark = pytest.mark.parametrize("endpoint", ["vllm", "sglang", "http"], indirect=True)

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_a_chat(client, endpoint, paris):
    """The demo model knows this one."""
    answer = client.chat.completions.create(model=endpoint.model, messages=QUESTION, temperature=0)
    assert answer.choices[0].message.content == paris
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", endpoint.model)
    assert answer.usage.completion_tokens == ANSWERS[endpoint.engine][1]


def test_a_streamed_chat_with_usage(client, endpoint, paris):
    """The pieces make up the same text, and the last one counts."""
    stream = client.chat.completions.create(
        model=endpoint.model,
        messages=QUESTION,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == paris
    assert chunks[-1].usage.completion_tokens == ANSWERS[endpoint.engine][1]
    assert len(chunks) > 2  # the last one is the usage


def test_completions_plain_and_streamed(client, endpoint):
    """Greedy text is the same both ways."""
    request = {"model": endpoint.model, "prompt": "One two three", "max_tokens": 8}
    plain = client.completions.create(**request, temperature=0)
    stream = client.completions.create(**request, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == plain.choices[0].text
    assert plain.usage.completion_tokens == 8


def test_responses_plain_and_streamed(client, endpoint, paris):
    """OpenAI's newer route; its stream has named events."""
    request = {"model": endpoint.model, "input": QUESTION[0]["content"], "temperature": 0}
    assert client.responses.create(**request).output_text == paris
    events = list(client.responses.create(**request, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == paris


def test_anthropic_messages_plain_and_streamed(endpoint, paris):
    """Anthropic's client finds /v1/messages behind the same route."""
    with anthropic.Anthropic(
        base_url=endpoint.platform.anthropic_base_url,
        api_key=endpoint.platform.api_key,
        max_retries=0,
    ) as claude:
        request = {
            "model": endpoint.model,
            "messages": QUESTION,
            "max_tokens": 32,
            "extra_body": {"temperature": 0},  # the newest client has no argument for it
        }
        assert claude.messages.create(**request).content[0].text == paris
        with claude.messages.stream(**request) as stream:
            assert "".join(stream.text_stream) == paris
        counted = claude.messages.count_tokens(model=endpoint.model, messages=QUESTION)
        assert counted.input_tokens == 37


def test_models_are_listed(client, endpoint):
    """A GET route is got, and says nothing of where the weights lie."""
    listed = client.models.list().data
    assert [model.id for model in listed] == [endpoint.model, "org/other"]
    assert [model.root for model in listed] == [endpoint.model, "org/other"]


def test_two_choices(client, endpoint, paris):
    """n=2, streamed: both texts come whole."""
    stream = client.chat.completions.create(
        model=endpoint.model,
        messages=QUESTION,
        n=2,
        stream=True,
        extra_body=endpoint.constrained(paris),  # n=2 is for sampling only
    )
    texts = {0: "", 1: ""}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: paris, 1: paris}


def test_stop_ends_the_text(client, endpoint):
    """The stop text itself is left out."""
    answer = client.chat.completions.create(
        model=endpoint.model, messages=QUESTION, temperature=0, stop=[" Paris"]
    )
    assert answer.choices[0].message.content == "The capital of France is"
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.needs_a_model
def test_log_probabilities(client, endpoint, paris):
    """One entry a token, with the alternatives asked for."""
    answer = client.chat.completions.create(
        model=endpoint.model, messages=QUESTION, temperature=0, logprobs=True, top_logprobs=3
    )
    entries = answer.choices[0].logprobs.content
    text = "".join(entry.token for entry in entries)
    # vLLM has an entry for the token that ends the text, SGLang has not.
    assert text.removesuffix("<|im_end|>") == paris
    assert {len(entry.top_logprobs) for entry in entries} == {3}


@pytest.mark.needs_a_model
def test_a_seed_makes_sampling_repeatable(client, endpoint):
    """Same seed, same text; another seed, another text."""

    def write(seed):
        answer = client.chat.completions.create(
            model=endpoint.model,
            messages=[{"role": "user", "content": "Write a sentence about the sea."}],
            temperature=1,
            seed=seed,
            max_tokens=24,
        )
        return answer.choices[0].message.content

    if endpoint.engine == "vllm":
        assert write(7) == write(7) != write(8)
    else:  # SGLang takes a seed into account only with --enable-deterministic-inference
        assert len(write(7)) > 0


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "capital": {"type": "boolean"}},
    "required": ["city", "capital"],
    "additionalProperties": False,
}


def test_json_schema(client, endpoint):
    """The answer follows the schema, whatever the model would rather say."""
    answer = client.chat.completions.create(
        model=endpoint.model,
        messages=[{"role": "user", "content": "Describe Paris as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}},
        temperature=0,
        max_tokens=80,
    )
    described = json.loads(answer.choices[0].message.content)
    assert [type(described[name]) for name in ("city", "capital")] == [str, bool]
    assert described.keys() == {"city", "capital"}


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_named_strict_tool_call(client, endpoint, stream):
    """The call has the tool's name and arguments that follow its schema."""
    request = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "temperature": 0,
        "max_tokens": 64,
    }
    if stream:
        calls = [
            call
            for chunk in client.chat.completions.create(**request, stream=True)
            for choice in chunk.choices
            for call in choice.delta.tool_calls or []
        ]
        name = "".join(call.function.name or "" for call in calls)
        arguments = "".join(call.function.arguments or "" for call in calls)
    else:
        call = client.chat.completions.create(**request).choices[0].message.tool_calls[0]
        name, arguments = call.function.name, call.function.arguments
    assert name == "get_weather"
    assert json.loads(arguments).keys() == {"city"}


@pytest.mark.parametrize("text", ["🦙🦙🦙", "日本語の文字", "a🧑‍🚀é"])
def test_characters_of_many_bytes_stay_whole_in_a_stream(client, endpoint, text):
    """Each of them is several tokens; none may arrive torn."""
    stream = client.chat.completions.create(
        model=endpoint.model,
        messages=[{"role": "user", "content": "Write."}],
        stream=True,
        extra_body=endpoint.constrained(text),
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_an_async_client_gets_64_answers_at_once(endpoint):
    """Batched by the engine, not queued behind each other, and none mixed up."""

    async def ask(client, number):
        stream = await client.chat.completions.create(
            model=endpoint.model,
            messages=[{"role": "user", "content": f"Say {number}."}],
            stream=True,
            extra_body=endpoint.constrained(f"This is number {number}."),
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def run():
        async with openai.AsyncOpenAI(
            base_url=endpoint.platform.openai_base_url,
            api_key=endpoint.platform.api_key,
            max_retries=0,
        ) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(64)))

    assert asyncio.run(run()) == [f"This is number {number}." for number in range(64)]


def test_too_long_a_prompt(client, endpoint):
    """The engine's own 400, with its words."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=endpoint.model, prompt="word " * 9000)
    assert caught.value.status_code == 400
    words = {"vllm": "maximum context length is 8192", "sglang": "context length (8192 tokens)"}
    assert words[endpoint.engine] in caught.value.body["message"]
    assert caught.value.body["type"] == "BadRequestError"


def test_one_model_of_the_list(client, endpoint):
    """With which many clients test a connection; a name may hold slashes."""
    listed = {card.id: card for card in client.models.list().data}
    for name in (endpoint.model, "org/other"):
        found = client.models.retrieve(name)
        assert (found.id, found.root, found.parent) == (
            name,
            listed[name].root,
            listed[name].parent,
        )
    with pytest.raises(openai.NotFoundError, match="The model `gpt/4` does not exist"):
        client.models.retrieve("gpt/4")


def test_a_response_that_nobody_has(client, endpoint):
    """Found by the worker that made it only, so not in a job."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.responses.retrieve("resp_unknown")
    message = caught.value.body["message"]
    if endpoint.platform.openai_base_url.endswith("/openai/v1"):
        assert message.startswith("/v1/responses/resp_unknown is not for callers: a response is")
    else:
        assert "resp_unknown" in message
    assert caught.value.status_code == 404


def test_an_unknown_model(client, endpoint):
    """404, and the names that would be right."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    assert caught.value.body["message"] == (
        f"The model `gpt-4` does not exist. Models: {endpoint.model}, org/other."
    )


def test_an_unknown_route(client):
    """404, and the routes that there are."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt="a llama", model="x")
    assert caught.value.body["message"].startswith(
        "There is no route '/v1/images/generations'. Routes: chat/completions, "
    )


def test_a_route_of_another_kind_of_model(client, endpoint):
    """Embeddings are a route, but not of a model that chats: vLLM has none then, SGLang refuses."""
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)) as caught:
        client.embeddings.create(model=endpoint.model, input="x")
    message = caught.value.body["message"]
    if endpoint.engine == "vllm":
        assert message == "This model does not serve /v1/embeddings."
    else:
        assert message.startswith("This model does not appear to be an embedding model by default.")


def test_a_body_that_is_no_object(client):
    """400, and what it is instead."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=["x"], cast_to=object)
    assert caught.value.body["message"] == "The body must be a JSON object, got a list."


def test_a_body_that_is_not_json(client):
    """The platform refuses it before it is a job."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(
            "/chat/completions",
            content=b"{not json",
            options={"headers": {"content-type": "application/json"}},
            cast_to=object,
        )
    assert caught.value.status_code == 400


def test_an_unknown_field_on_the_openai_route_is_the_engine_business(client, endpoint, paris):
    """OpenAI's own API takes extra fields, and so does the engine."""
    answer = client.chat.completions.create(
        model=endpoint.model, messages=QUESTION, temperature=0, extra_body={"unheard_of": 1}
    )
    assert answer.choices[0].message.content == paris


def test_a_bad_value_names_its_field(client, endpoint):
    """The engine's validation reaches the caller as an OpenAI error."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=endpoint.model, messages=QUESTION, temperature=-3)
    assert caught.value.body["code"] == 400
    assert "temperature" in caught.value.body["message"]
    # SGLang's sampler, which refuses it, names the field in the message only.
    assert caught.value.body["param"] == ("temperature" if endpoint.engine == "vllm" else None)
