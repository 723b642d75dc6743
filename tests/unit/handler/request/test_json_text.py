"""JSON from callers, and how deep it is nested."""

import json

import pytest

from handler.errors import InvalidInput
from handler.request.json_text import MAX_NESTING, check_nesting, loads, shown
from handler.request.parse import RequestParser


def nested(levels):
    value = []
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def text(levels):
    return "[" * levels + "]" * levels


def call(arguments):
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    return {"messages": [{"role": "assistant", "tool_calls": calls}]}


@pytest.mark.parametrize(
    "make",
    [
        lambda levels: {"metadata": nested(levels)},
        lambda levels: {"tools": [nested(levels - 1)]},
        lambda levels: {"guided_json": text(levels)},
        lambda levels: {"structured_outputs": {"json": text(levels)}},
        lambda levels: call(text(levels)),
    ],
    ids=["field", "list", "schema as text", "schema in a field", "past tool call"],
)
def test_a_body_may_be_nested_to_a_limit(make):
    """Texts that the engine decodes count by themselves."""
    check_nesting(make(MAX_NESTING))
    [name] = make(1)
    for levels in (MAX_NESTING + 1, 1000, 100_000):
        with pytest.raises(InvalidInput) as caught:
            check_nesting(make(levels))
        assert str(caught.value) == (
            f"{name!r} is nested too deeply: objects and lists may nest at most "
            f"{MAX_NESTING} levels."
        )
        assert caught.value.param == name


@pytest.mark.parametrize(
    "arguments",
    ["[" * 1000, '"' + "[" * 1000 + '"', '{"a": "' + '\\"{' * 1000 + '"}', "[]" * 1000],
    ids=["cut short", "text", "escaped quotes", "side by side"],
)
def test_brackets_in_texts_are_no_nesting(arguments):
    """A call that was cut short is, as far as it goes."""
    if arguments == "[" * 1000:
        with pytest.raises(InvalidInput):
            check_nesting(call(arguments))
    else:
        check_nesting(call(arguments))


@pytest.mark.parametrize("levels", [1, 500, 100_000])
def test_json_of_any_depth_is_decoded(levels):
    """As far as it matters: what is around it is whole, and it is still too deep."""
    value = loads('{"id": "]}[", "a": ' + text(levels) + ', "b": {"c": "\\"{"}}')
    assert (value["id"], value["b"]) == ("]}[", {"c": '"{'})
    if levels > MAX_NESTING:
        with pytest.raises(InvalidInput):
            check_nesting(value)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, '"'])
def test_what_is_not_json_is_a_value_error(content):
    """Whatever its depth."""
    with pytest.raises(json.JSONDecodeError):
        loads(content)


def test_no_depth_breaks_an_error_message():
    """`repr` is recursive too."""
    assert [shown(value) for value in (nested(10_000), [1], "a", None)] == [
        "an object",
        "a list",
        "'a'",
        "None",
    ]


@pytest.mark.parametrize("levels", [200, 900, 5000])
def test_a_deep_body_is_a_400_over_http(levels):
    """Also where the decoder gives up first."""
    parser = RequestParser(("m",), "org/m", {})
    with pytest.raises(InvalidInput) as caught:
        parser.parse_http(
            method="POST",
            path="/v1/chat/completions",
            query="",
            body=b'{"metadata": ' + text(levels).encode() + b"}",
            content_type="application/json",
            request_id="r",
        )
    assert caught.value.status == 400
