"""Events are cut where they end, characters stay whole, chunks stay under the platform's limit."""

import json

import pytest

from handler.engine.sse import MAX_CHUNK_BYTES, EventSplitter, chunks_of, error_in, json_bytes

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


def test_events_are_joined_to_one_chunk():
    """One yield costs one POST."""
    assert list(chunks_of(EVENTS)) == [b"".join(EVENTS).decode()]


def test_chunks_break_between_events():
    """Each chunk holds whole events and fits."""
    event = b'data: "' + b"\xc3\xa9\\n" * 50_000 + b'"\n\n'
    chunks = list(chunks_of([event] * 20))
    assert "".join(chunks) == (event * 20).decode()
    assert all(chunk.endswith('"\n\n') for chunk in chunks)
    assert max(json_bytes(chunk) for chunk in chunks) <= MAX_CHUNK_BYTES
    assert [chunk.count("data:") for chunk in chunks] == [3, 3, 3, 3, 3, 3, 2]


def test_one_event_over_the_limit_is_split_between_characters():
    """The platform would refuse it whole; the reader joins the pieces."""
    event = ("data: " + "🦙\x01" * 600_000 + "\n\n").encode()
    chunks = list(chunks_of([b"data: 1\n\n", event, b"data: 2\n\n"]))
    assert "".join(chunks).encode() == b"data: 1\n\n" + event + b"data: 2\n\n"
    assert max(json_bytes(chunk) for chunk in chunks) <= MAX_CHUNK_BYTES


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


def test_json_bytes_counts_what_the_sdk_sends():
    """Quotes and newlines grow, other characters are sent as UTF-8."""
    assert json_bytes('"é\n') == len(json.dumps('"é\n', ensure_ascii=False).encode()) == 8
