"""Server-sent events: split where they end, and decoded."""

import pytest

from handler.engine.call.sse import EventSplitter, decode_event, error_in

EVENTS = [
    'data: {"text": "日本語 🦙"}\n\n'.encode(),
    b": keep-alive\n\n",
    'event: x\ndata: {"text": "é"}\n\n'.encode(),
    b"data: [DONE]\n\n",
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_events_are_whole_however_the_bytes_arrive(step):
    """A read may end in the middle of an emoji."""
    stream = b"".join(EVENTS)
    cutter, cut = EventSplitter(), []
    for start in range(0, len(stream), step):
        cut += cutter.feed(stream[start : start + step])
    assert cut == EVENTS
    assert cutter.end() == []


def test_an_event_without_its_blank_line_comes_out_at_the_end():
    """Nothing is lost when a stream breaks off."""
    cutter = EventSplitter()
    assert cutter.feed(b"data: a\n\ndata: b") == [b"data: a\n\n"]
    assert cutter.end() == [b"data: b"]


@pytest.mark.parametrize(
    ("event", "found"),
    [
        (b'data: {"error": {"message": "no"}}\n\n', {"error": {"message": "no"}}),
        (
            b'event: error\ndata: {"type": "error", "error": {"message": "no"}}\n\n',
            {"type": "error", "error": {"message": "no"}},
        ),
        (
            b'event: response.failed\ndata: {"type": "response.failed", "response": '
            b'{"error": {"message": "no"}}}\n\n',
            {"error": {"message": "no"}},
        ),
        (b'data: {"choices": [{"delta": {"content": "\\"error\\""}}]}\n\n', None),
        (b'data: {"response": {"error": null}, "type": "response.created"}\n\n', None),
        (
            'data: {"error": {"message": "a\u2028b"}}\n\n'.encode(),
            {"error": {"message": "a\u2028b"}},
        ),
        (b"data: [DONE]\n\n", None),
    ],
    ids=["openai", "anthropic", "responses", "word", "null", "separator", "done"],
)
def test_an_error_event_is_seen_and_nothing_else(event, found):
    """A model may write the word error as it likes."""
    assert error_in(event) == found


def test_what_is_no_object_decodes_to_nothing():
    """Comments and the end mark carry no chunk."""
    assert [
        decode_event(b": ping\n\n"),
        decode_event(b"data: [DONE]\n\n"),
        decode_event(b'data: {"a": 1}\n\n'),
    ] == [
        None,
        None,
        {"a": 1},
    ]
