"""The output of the local front end for each kind of job output."""

import json

import pytest

from handler.errors import InvalidSetting
from handler.serve.local import LocalResult, load_job


def result_of(*outputs):
    result = LocalResult()
    for output in outputs:
        result.add(output)
    return result


def chunk(text, usage=None):
    return {"object": "text_completion", "choices": [{"text": text}], "usage": usage}


def test_the_chunks_of_a_native_stream_are_joined():
    result = result_of(chunk("Pa"), chunk("ris", {"completion_tokens": 2}))
    assert (result.text, result.streamed, result.usage) == ("Paris", True, {"completion_tokens": 2})


def test_an_event_may_be_split_between_outputs():
    text = f"data: {json.dumps({'choices': [{'delta': {'content': 'Paris'}}]})}\n\n"
    result = result_of(text[:20], text[20:], "data: [DONE]\n\n")
    assert (result.text, result.streamed) == ("Paris", True)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ({"choices": [{"message": {"content": "Paris"}}]}, "Paris"),
        ({"choices": [{"message": {"tool_calls": [{"id": "é"}]}}]}, '[{"id": "é"}]'),
        ({"choices": [{"text": "Paris"}]}, "Paris"),
        ({"type": "message", "content": [{"text": "Pa"}, {"text": "ris"}]}, "Paris"),
        (
            {"object": "response", "output": [{"type": "reasoning"}, {"content": [{"text": "A"}]}]},
            "A",
        ),
        ({"tokens": [1]}, '{\n  "tokens": [\n    1\n  ]\n}'),
        ([{"score": 1}], '[\n  {\n    "score": 1\n  }\n]'),
        ("# HELP x\n", "# HELP x\n"),
    ],
    ids=["chat", "tools", "completion", "message", "response", "other", "list", "text"],
)
def test_a_response_is_its_text_or_else_json(output, text):
    result = result_of(output)
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
def test_named_events_are_understood(events):
    result = result_of(*(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events))
    assert (result.text, result.streamed, result.usage) == ("Paris", True, {"output_tokens": 1})


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "streamed"])
def test_sglangs_own_route_has_all_the_text_so_far(is_stream):
    """In each event, with the tokens so far."""
    answers = [
        {"text": text, "meta_info": {"completion_tokens": count}}
        for count, text in enumerate(("Pa", "Paris"), 1)
    ]
    outputs = [f"data: {json.dumps(each)}\n\n" for each in answers] if is_stream else answers[1:]
    result = result_of(*outputs)
    assert (result.text, result.streamed) == ("Paris", is_stream)
    assert result.usage == {"completion_tokens": 2}


def test_batch_results_are_printed_line_by_line():
    lines = [{"custom_id": "é", "error": None}, {"custom_id": "b", "error": {"code": "x"}}]
    counts = {"total": 2, "completed": 1, "failed": 1}
    result = result_of({"results": lines[:1]}, {"batch": counts, "results": lines[1:]})
    assert [json.loads(line) for line in result.text.split("\n")] == lines
    assert (result.streamed, result.batch_counts) == (False, counts)
    assert result.summary() == ["lines                2 total, 1 completed, 1 failed"]


def test_a_batch_that_was_uploaded_has_counts_only():
    counts = {"total": 2, "completed": 2, "failed": 0}
    result = result_of({"batch": counts})
    assert (result.text, result.batch_counts) == ("", counts)


def test_the_text_before_an_error_is_kept():
    result = result_of(chunk("Pa"), {"error": "{}"})
    assert (result.text, result.error) == ("Pa", "{}")


@pytest.mark.parametrize(
    ("usage", "line"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, "3 prompt + 4 completion tokens"),
        ({"input_tokens": 3, "output_tokens": 4}, "3 prompt + 4 completion tokens"),
        ({"prompt_tokens": 3}, "3 prompt tokens"),
    ],
    ids=["OpenAI", "Anthropic", "pooling"],
)
def test_the_summary_of_a_response_has_its_usage(usage, line):
    assert result_of({"choices": [], "usage": usage}).summary() == [f"usage                {line}"]


def test_the_summary_of_a_stream_has_its_times():
    result = result_of(chunk("Pa"), chunk("ris", {"completion_tokens": 2}))
    result.first_output_seconds, result.total_seconds = 0.25, 4.0
    assert result.summary() == [
        "usage                2 completion tokens",
        "time to first token  0.250 s",
        "tokens per second    0.5",
    ]


def test_the_job_is_the_argument_or_else_the_file(tmp_path):
    path = tmp_path / "test_input.json"
    path.write_text('{"id": "file", "input": {}}')
    assert load_job('{"input": {}}', path) == {"id": "local", "input": {}}
    assert load_job(None, path) == {"id": "file", "input": {}}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_file_may_have_any_encoding_of_json(tmp_path, encoding):
    """Windows' editors and PowerShell write a byte-order mark, or UTF-16."""
    path = tmp_path / "test_input.json"
    path.write_bytes('{"input": {"prompt": "日本"}}'.encode(encoding))
    assert load_job(None, path) == {"id": "local", "input": {"prompt": "日本"}}


def test_an_argument_may_begin_with_a_byte_order_mark():
    """As `$(cat file)` brings it."""
    assert load_job('\ufeff{"input": {}}') == {"id": "local", "input": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", '--test_input must be a JSON object with an "input".'),
        ("{}", '--test_input must be a JSON object with an "input".'),
        ("{", "--test_input is not JSON: Expecting property name enclosed in double quotes: .*"),
    ],
    ids=["array", "no input", "not JSON"],
)
def test_an_invalid_job_is_rejected(text, message):
    with pytest.raises(InvalidSetting, match=f"^{message}$"):
        load_job(text)


def test_a_missing_file_is_an_error(tmp_path):
    path = tmp_path / "test_input.json"
    with pytest.raises(InvalidSetting) as raised:
        load_job(None, path)
    assert str(raised.value) == f"{path} cannot be read: No such file or directory."
