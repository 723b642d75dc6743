"""What the local runner makes of a generator's yields, without an engine."""

import json

import pytest

from handler.serve.local import Answer, _figures


def answer(*outputs):
    result = Answer()
    for output in outputs:
        result.add(output)
    return result


def chunk(text, usage=None):
    return {"object": "text_completion", "choices": [{"text": text}], "usage": usage}


def test_a_native_stream():
    """Objects that each bring a piece."""
    result = answer(chunk("Pa"), chunk("ris", {"completion_tokens": 2}))
    assert (result.text, result.streamed, result.usage) == ("Paris", True, {"completion_tokens": 2})


def test_a_stream_of_events_cut_anywhere():
    """Two yields, one event over both of them."""
    text = f"data: {json.dumps({'choices': [{'delta': {'content': 'Paris'}}]})}\n\n"
    result = answer(text[:20], text[20:], "data: [DONE]\n\n")
    assert (result.text, result.streamed) == ("Paris", True)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ({"choices": [{"message": {"content": "Paris"}}]}, "Paris"),
        ({"choices": [{"text": "Paris"}]}, "Paris"),
        ({"tokens": [1]}, '{\n  "tokens": [\n    1\n  ]\n}'),
        ([{"score": 1}], '[\n  {\n    "score": 1\n  }\n]'),
        ("# HELP x\n", "# HELP x\n"),
    ],
    ids=["chat", "completion", "other", "list", "text"],
)
def test_a_plain_answer(output, text):
    """Shown as text where there is text, else as it is."""
    result = answer(output)
    assert (result.text, result.streamed, result.error) == (text, False, None)


@pytest.mark.parametrize(
    "events",
    [
        [
            {"type": "response.output_text.delta", "delta": "Paris"},
            {"type": "response.completed", "response": {"usage": {"output_tokens": 1}}},
        ],
        [
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Paris"}},
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 1}},
        ],
    ],
    ids=["responses", "messages"],
)
def test_the_other_routes_streams(events):
    """Each has named events of its own."""
    result = answer(*(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events))
    assert (result.text, result.streamed, result.usage) == ("Paris", True, {"output_tokens": 1})


def test_a_batch_is_shown_line_by_line():
    """As its file would be; the counts are a figure of their own."""
    lines = [{"custom_id": "é", "error": None}, {"custom_id": "b", "error": {"code": "x"}}]
    counts = {"total": 2, "completed": 1, "failed": 1}
    result = answer({"results": lines[:1]}, {"batch": counts, "results": lines[1:]})
    assert [json.loads(line) for line in result.text.split("\n")] == lines
    assert (result.streamed, result.batch) == (False, counts)
    assert _figures(result) == ["lines                2 total, 1 completed, 1 failed"]
    elsewhere = answer({"batch": counts})
    assert (elsewhere.text, elsewhere.batch) == ("", counts)


def test_an_error_ends_it():
    """The text that came before stays."""
    result = answer(chunk("Pa"), {"error": "{}"})
    assert (result.text, result.error) == ("Pa", "{}")
