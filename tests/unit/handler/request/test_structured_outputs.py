"""Constraints of the output in the names of one engine, for either engine."""

import pytest

from handler.errors import InvalidInput
from handler.request.structured_outputs import translate_constraints
from tests.support.engine_fields import ENGINE_FIELDS

PATHS = ("/v1/chat/completions", "/v1/completions")
SCHEMA = {"type": "object"}
TAG = {"structures": [], "triggers": []}


def translated(engine, path, body):
    body = dict(body)
    translate_constraints(path, body, ENGINE_FIELDS[engine][path])
    return body


def json_format(schema):
    json_schema = {"name": "json", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "vllm", "sglang"),
    [
        ({"guided_json": SCHEMA}, {"json": SCHEMA}, json_format(SCHEMA)),
        ({"guided_json": '{"a": 1}'}, {"json": '{"a": 1}'}, json_format({"a": 1})),
        ({"json_schema": SCHEMA}, {"json": SCHEMA}, json_format(SCHEMA)),
        (
            {"guided_json_object": True},
            {"json_object": True},
            {"response_format": {"type": "json_object"}},
        ),
        ({"guided_regex": "a+"}, {"regex": "a+"}, {"regex": "a+"}),
        ({"regex": "a+"}, {"regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a.", "b"]}, {"choice": ["a.", "b"]}, {"regex": r"(a\.)|(b)"}),
        ({"guided_grammar": "g"}, {"grammar": "g"}, {"ebnf": "g"}),
        ({"ebnf": "g"}, {"grammar": "g"}, {"ebnf": "g"}),
        (
            {"structured_outputs": {"choice": ["a"], "regex": None}},
            {"choice": ["a"], "regex": None},
            {"regex": "(a)"},
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_each_constraint_has_its_name_in_either_engine(path, body, vllm, sglang):
    """vLLM removed the older ones, and would answer with free text."""
    assert translated("vllm", path, body) == {"structured_outputs": vllm}
    assert translated("sglang", path, body) == sglang


def test_a_structural_tag():
    """SGLang has it in response_format."""
    body = {"structural_tag": TAG}
    assert translated("vllm", PATHS[0], body) == {"structured_outputs": {"structural_tag": TAG}}
    expected = {"response_format": {"type": "structural_tag", **TAG}}
    assert translated("sglang", PATHS[0], body) == expected


def test_the_text_of_a_schema_is_sglangs_own_field():
    """On completions."""
    body = {"json_schema": '{"type": "object"}'}
    assert translated("sglang", "/v1/completions", body) == body


@pytest.mark.parametrize("engine", ENGINE_FIELDS)
@pytest.mark.parametrize(
    "body", [{"guided_regex": ""}, {"guided_json_object": False}, {"guided_grammar": ""}]
)
def test_an_empty_constraint_is_none(engine, body):
    """As SGLang has it."""
    assert translated(engine, PATHS[0], body) == {}


@pytest.mark.parametrize("engine", ENGINE_FIELDS)
def test_plain_text_as_the_format_is_no_constraint(engine):
    """Clients send it by default."""
    body = translated(engine, PATHS[0], {"guided_regex": "a", "response_format": {"type": "text"}})
    own = {"vllm": {"structured_outputs": {"regex": "a"}}, "sglang": {"regex": "a"}}
    assert own[engine].items() <= body.items()


@pytest.mark.parametrize("engine", ENGINE_FIELDS)
@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (
            PATHS[0],
            {"guided_json": SCHEMA, "guided_regex": "a"},
            "Send only one of guided_json, guided_regex: each constrains the output.",
        ),
        (
            PATHS[0],
            {"guided_json": SCHEMA, "response_format": {"type": "json_object"}},
            "Send only one of guided_json, response_format: each constrains the output.",
        ),
        (PATHS[0], {"guided_choice": []}, "guided_choice must be a list of strings."),
        (PATHS[0], {"guided_choice": [1]}, "guided_choice must be a list of strings."),
        (
            "/v1/messages",
            {"guided_json": SCHEMA},
            "The engine does not support guided_json on /v1/messages.",
        ),
    ],
)
def test_what_cannot_be_translated_is_refused(engine, path, body, message):
    """It would be dropped without a word."""
    with pytest.raises(InvalidInput) as caught:
        translated(engine, path, body)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"guided_json": "{"}, "guided_json is not JSON: "),
        ({"guided_json": [1]}, "guided_json must be a JSON object."),
        ({"structured_outputs": "x"}, "structured_outputs must be a JSON object."),
        (
            {"structured_outputs": {"disable_additional_properties": True}},
            "The engine does not support structured_outputs.disable_additional_properties: "
            "remove it.",
        ),
    ],
)
def test_what_sglang_cannot_do(body, message):
    """vLLM judges these itself."""
    with pytest.raises(InvalidInput) as caught:
        translated("sglang", PATHS[0], body)
    assert str(caught.value).startswith(message)
