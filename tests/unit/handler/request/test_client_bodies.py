"""Bodies of real clients pass with both engines: what is left is what the engine acts upon."""

import json

import pytest

from handler.errors import InvalidInput
from handler.request.parse import RequestParser
from handler.request.unknown_fields import TOLERATED
from tests.support.client_bodies import CHAT, CLIENT_BODIES, COMPLETIONS, MESSAGES, SCHEMA
from tests.support.engine_fields import ENGINE_FIELDS

# Samplers and settings of other servers, which SillyTavern and others send with their defaults.
OTHERS = set(
    "drop_params litellm_session_id chat_id background_tasks top_a typical_p tfs"
    " repetition_penalty_range add_bos_token ban_eos_token truncation_length epsilon_cutoff"
    " guidance_scale negative_prompt include_reasoning session_id".split()
)


def sent(engine, path, body):
    """Return the body that the engine gets."""
    parser = RequestParser(("served",), "org/served", ENGINE_FIELDS[engine])
    request = parser.parse_job({"id": "j", "input": {"openai_route": path, "openai_input": body}})
    return json.loads(request.request.body)


@pytest.mark.parametrize("engine", ENGINE_FIELDS)
@pytest.mark.parametrize("client", CLIENT_BODIES)
def test_a_clients_body_is_accepted(engine, client):
    """No null is left, and no field that the engine ignores but for the known ones."""
    path, body = CLIENT_BODIES[client]
    result = sent(engine, path, body)
    assert None not in result.values()
    assert result.keys() - ENGINE_FIELDS[engine][path] <= TOLERATED | OTHERS


@pytest.mark.parametrize("engine", ENGINE_FIELDS)
@pytest.mark.parametrize(
    ("client", "changed"),
    [
        ("LiteLLM", {"tools": None, "tool_choice": None, "extra_body": None, "top_k": 5}),
        ("Open WebUI", {"tools": None, "stop": None}),
        ("Continue", {"top_p": None, "top_k": 1, "stop": None}),
        ("SillyTavern, chat", {"top_k": -1}),
        ("SillyTavern, text", {"max_tokens": 8, "max_new_tokens": None, "stop": ["\n"]}),
        ("Qwen's clients", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("anthropic", {"tools": None, "tool_choice": None, "top_k": -1}),
        (
            "Claude Code",
            {
                "tools": [{"name": "Read", "description": "Reads", "input_schema": SCHEMA}],
                "tool_choice": None,
            },
        ),
    ],
)
def test_what_is_changed_in_a_clients_body(engine, client, changed):
    """Absent fields are None here."""
    result = sent(engine, *CLIENT_BODIES[client])
    assert {name: result.get(name) for name in changed} == changed


def over_http(parser, path, body):
    return parser.parse_http(
        method="POST",
        path=path,
        query="",
        body=json.dumps(body).encode(),
        content_type="application/json",
        request_id="r",
    )


def in_a_batch(parser, path, body):
    data = {"route": path, "method": "POST", "body": body}
    return parser.parse_job({"id": "j", "input": data}).request


@pytest.mark.parametrize("engine", ENGINE_FIELDS)
@pytest.mark.parametrize("parse", [over_http, in_a_batch])
def test_each_way_in_does_the_same(engine, parse):
    """Calls over HTTP and lines of a batch, too."""
    parser = RequestParser(("served",), "org/served", ENGINE_FIELDS[engine])
    for path, body in CLIENT_BODIES.values():
        assert json.loads(parse(parser, path, body).body) == sent(engine, path, body)
    constrained = json.loads(parse(parser, CHAT, {"guided_regex": "a"}).body)
    own = {"vllm": {"structured_outputs": {"regex": "a"}}, "sglang": {"regex": "a"}}
    assert constrained == {**own[engine], "model": "served"}
    with pytest.raises(InvalidInput):
        parse(parser, CHAT, {"best_of": 4})


@pytest.mark.parametrize("engine", ENGINE_FIELDS)
@pytest.mark.parametrize(
    ("path", "field", "value", "instead"),
    [
        (CHAT, "functions", [{"name": "f"}], "use tools and tool_choice"),
        (CHAT, "web_search_options", {}, "remove it"),
        (CHAT, "modalities", ["text", "audio"], "remove it"),
        (CHAT, "sampling_params", {"top_k": 1}, "it is for the native input only"),
        (COMPLETIONS, "best_of", 4, "use n"),
        (COMPLETIONS, "grammar", "root ::= 'a'", "use guided_grammar"),
        (MESSAGES, "mcp_servers", [{"type": "url"}], "remove it"),
    ],
)
def test_what_would_change_the_answer_is_refused(engine, path, field, value, instead):
    """Neither engine does it, and both would answer as if it were not there."""
    error = f"^The engine does not support {field} on {path}: {instead}"
    with pytest.raises(InvalidInput, match=error):
        sent(engine, path, {field: value})
