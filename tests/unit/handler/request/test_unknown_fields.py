"""What becomes of the fields that the engine does not have."""

import pytest

from handler.errors import InvalidInput
from handler.request.client_defaults import merge_extra_body, replace_defaults
from handler.request.unknown_fields import (
    CHANGES_OUTPUT,
    IGNORED,
    MAX_LOGGED_FIELDS,
    TOLERATED,
    FieldTranslator,
)
from tests.support.engine_fields import ENGINE_FIELDS

CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"


@pytest.fixture(params=ENGINE_FIELDS)
def translator(request):
    return FieldTranslator(ENGINE_FIELDS[request.param])


def translated(translator, path, body, native=False):
    body = dict(body)
    translator.translate(path, body, native=native)
    return body


@pytest.mark.parametrize(
    ("path", "given", "own"),
    [
        (CHAT, "max_new_tokens", "max_tokens"),
        (COMPLETIONS, "max_completion_tokens", "max_tokens"),
        ("/v1/responses", "max_tokens", "max_output_tokens"),
        (COMPLETIONS, "min_new_tokens", "min_tokens"),
        (CHAT, "sampling_seed", "seed"),
        (CHAT, "stop_sequences", "stop"),
        (MESSAGES, "stop", "stop_sequences"),
    ],
)
def test_another_name_of_a_field_is_translated(translator, path, given, own):
    """The same value beside the engine's own name is no contradiction."""
    assert translated(translator, path, {given: 4}) == {own: 4}
    assert translated(translator, path, {given: 4, own: 4}) == {own: 4}
    with pytest.raises(InvalidInput, match=f"^{given} and {own} have different values"):
        translated(translator, path, {given: 4, own: 5})


@pytest.mark.parametrize(
    ("engine", "given", "own"),
    [
        ("vllm", "no_stop_trim", "include_stop_str_in_output"),
        ("sglang", "include_stop_str_in_output", "no_stop_trim"),
    ],
)
def test_one_engines_name_is_translated_for_the_other(engine, given, own):
    """Both keep the stop string in the text."""
    translator = FieldTranslator(ENGINE_FIELDS[engine])
    assert translated(translator, CHAT, {given: True}) == {own: True}


def test_a_variable_of_the_chat_template_is_put_there(translator):
    """The caller's own chat_template_kwargs win."""
    assert translated(translator, CHAT, {"enable_thinking": False}) == {
        "chat_template_kwargs": {"enable_thinking": False}
    }
    own = {"enable_thinking": False, "chat_template_kwargs": {"enable_thinking": True}}
    assert translated(translator, CHAT, own) == {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.mark.parametrize("name", sorted(CHANGES_OUTPUT))
def test_a_field_that_changes_nothing_is_left_out(translator, name):
    """Any other value is refused, unless the engine has the field."""
    path = next(path for path in (MESSAGES, CHAT) if name not in translator.known(path))
    for neutral in CHANGES_OUTPUT[name]:
        assert translated(translator, path, {name: neutral}) == {}
    with pytest.raises(InvalidInput) as caught:
        translated(translator, path, {name: {"any": "other"}})
    assert caught.value.param == name


def test_best_of_as_many_as_are_returned_chooses_nothing(translator):
    """OpenAI's clients send both."""
    assert translated(translator, COMPLETIONS, {"best_of": 3, "n": 3}) == {"n": 3}
    with pytest.raises(InvalidInput) as caught:
        translated(translator, COMPLETIONS, {"best_of": 3, "n": 2})
    assert str(caught.value) == "The engine does not support best_of on /v1/completions: use n."


def test_what_no_engine_could_act_upon_passes_without_a_word(translator, caplog):
    """Billing, storage and tracing of other services."""
    body = dict.fromkeys(TOLERATED, "x")
    assert translated(translator, CHAT, body) == body
    assert translated(translator, CHAT, body, native=True) == body
    assert caplog.messages == []


def test_what_a_user_may_expect_something_of_is_logged_once(translator, caplog):
    """It is left out, in the native input too."""
    body = dict.fromkeys(IGNORED, 8)
    for native in (False, True):
        assert translated(translator, CHAT, body, native=native) == {}
    assert sorted(caplog.messages) == [
        f"{name!r} is ignored: {reason}" for name, reason in sorted(IGNORED.items())
    ]


def test_an_unknown_field_passes_and_is_logged_once(translator, caplog):
    """Clients send a lot that is for other servers; people who write native input do not."""
    for _ in range(2):
        assert translated(translator, CHAT, {"top_a": 0}) == {"top_a": 0}
    assert caplog.messages == [
        "'top_a' is ignored: the engine has no such field on /v1/chat/completions"
    ]
    with pytest.raises(InvalidInput, match=r"^The engine has no field 'top_a' on "):
        translated(translator, CHAT, {"top_a": 0}, native=True)


def test_the_log_is_bounded(translator, caplog):
    """Names come from callers: their number and length are limited, and they have no line ends."""
    for number in range(MAX_LOGGED_FIELDS + 10):
        translated(translator, CHAT, {f"x\n{number:05}" + "y" * 100: 0})
    assert len(caplog.messages) == MAX_LOGGED_FIELDS
    assert max(len(line) for line in caplog.messages) < 150
    assert not any("\n" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("repitition_penalty", "repetition_penalty"),
        ("frequency_penality", "frequency_penalty"),
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("top-p", "top_p"),
        ("message", "messages"),
    ],
)
def test_a_misspelt_field_is_refused(translator, name, near):
    """It would be ignored, and the answer would not be what was asked for."""
    with pytest.raises(InvalidInput, match=f"did you mean '{near}'"):
        translated(translator, CHAT, {name: 1})


@pytest.mark.parametrize(
    "body",
    [{"repetition_penalty_range": 0}, {"models": ["a"], "model": "b"}, {"top_n": 1}, {"tfs": 1}],
    ids=lambda body: next(iter(body)),
)
def test_a_field_of_its_own_is_not_misspelt(translator, body):
    """Of another server, or beside the field that it resembles."""
    assert translated(translator, CHAT, body) == body


@pytest.mark.parametrize("fields", [{}, {CHAT: frozenset()}], ids=["no route", "no model"])
def test_without_the_engines_fields_nothing_is_judged(fields):
    """A route whose body is no pydantic model is for the engine to judge."""
    assert translated(FieldTranslator(fields), CHAT, {"guided_json": {}}, native=True) == {
        "guided_json": {}
    }


@pytest.mark.parametrize(
    ("word", "stream"),
    [("true", True), ("False", False), ("1", True), ("maybe", "maybe"), (True, True)],
)
def test_stream_may_be_a_word(word, stream):
    """As forms send it; what is neither is for the engine to judge."""
    assert merge_extra_body({"stream": word}) == {"stream": stream}


def test_the_effort_of_reasoning_has_openais_name():
    """OpenRouter's has one field of its own; other fields beside it are not dropped."""
    translator = FieldTranslator({CHAT: frozenset({"messages", "reasoning_effort"})})
    body = {"reasoning": {"effort": "low"}}
    assert translated(translator, CHAT, body) == {"reasoning_effort": "low"}
    body = {"reasoning": {"effort": "low", "max_tokens": 8}}
    assert translated(translator, CHAT, body) == body


@pytest.mark.parametrize(
    ("path", "given", "expected"),
    [
        (
            CHAT,
            {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
            {"tool_choice": "none"},
        ),
        (CHAT, {"tools": [], "tool_choice": "required"}, {"tool_choice": "required"}),
        (CHAT, {"tool_choice": "auto"}, {}),
        (CHAT, {"stop": ["", "a"]}, {"stop": ["a"]}),
        (CHAT, {"stop": "a", "stream_options": {}}, {"stop": "a"}),
        (CHAT, {"stream": True, "stream_options": {}}, {"stream": True, "stream_options": {}}),
        (CHAT, {"top_p": 0.0, "top_k": 40}, {"top_k": 1}),
        (CHAT, {"top_p": False}, {"top_p": False}),
        (CHAT, {"logprobs": False}, {"logprobs": False}),
        (COMPLETIONS, {"logprobs": False}, {}),
        (
            CHAT,
            {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "schema", "schema": {"type": "object"}},
                }
            },
        ),
        (
            CHAT,
            {"response_format": {"type": "json_object", "schema": None}},
            {"response_format": {"type": "json_object", "schema": None}},
        ),
        (MESSAGES, {"stop_sequences": [""], "tools": [], "tool_choice": {"type": "auto"}}, {}),
        (CHAT, {"max_tokens": "", "seed": "", "response_format": {}, "tool_choice": ""}, {}),
        (
            CHAT,
            {"tools": [{"a": 1}], "tool_choice": "any"},
            {"tools": [{"a": 1}], "tool_choice": "required"},
        ),
    ],
)
def test_values_that_clients_send_by_default(path, given, expected):
    """An engine refuses them, or takes them for something else."""
    body = dict(given)
    replace_defaults(path, body, log_once=lambda *_: None)
    assert body == expected


@pytest.mark.parametrize(
    ("tools", "choice", "expected"),
    [
        (["web"], {"type": "any"}, {}),
        (["web"], {"type": "none"}, {"tool_choice": {"type": "none"}}),
        (["web", "own"], {"type": "any"}, {"tools": ["own"], "tool_choice": {"type": "any"}}),
        (["bash", "own"], {"type": "tool", "name": "bash"}, {"tools": ["own"]}),
        (
            ["web", "custom"],
            {"type": "tool", "name": "c"},
            {"tools": ["custom"], "tool_choice": {"type": "tool", "name": "c"}},
        ),
        (["broken"], {"type": "auto"}, {"tools": ["broken"], "tool_choice": {"type": "auto"}}),
    ],
)
def test_anthropics_own_tools_are_left_out(tools, choice, expected):
    """With their choice; a tool of the caller that has no schema is for the engine to refuse."""
    by_name = {
        "web": {"type": "web_search_20250305", "name": "web_search"},
        "bash": {"type": "bash_20250124", "name": "bash"},
        "own": {"name": "o", "input_schema": {}},
        "custom": {"type": "custom", "name": "c", "input_schema": {}},
        "broken": {"name": "b"},
    }
    logged = []
    body = {"tools": [by_name[name] for name in tools], "tool_choice": choice}
    replace_defaults(MESSAGES, body, log_once=lambda name, *_: logged.append(name))
    if "tools" in expected:
        expected = expected | {"tools": [by_name[name] for name in expected["tools"]]}
    assert body == expected
    left_out = [by_name[name]["type"] for name in tools if name in ("web", "bash")]
    assert logged == left_out


def test_extra_body_is_unfolded_as_openais_client_does():
    """Its fields win, and nulls are absent in both."""
    body = {"a": 1, "b": None, "extra_body": {"a": 2, "c": None, "d": {"e": None}}}
    assert merge_extra_body(body) == {"a": 2, "d": {"e": None}}
