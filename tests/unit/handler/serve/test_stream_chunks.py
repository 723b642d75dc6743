"""Chunks of a stream: joined or merged, and under the platform's limit."""

import json

from handler.serve.stream_chunks import MAX_CHUNK_BYTES, join_events, json_bytes, merge_chunks

EVENTS = [
    'data: {"text": "日本語 🦙"}\n\n'.encode(),
    b": keep-alive\n\n",
    'event: x\ndata: {"text": "é"}\n\n'.encode(),
    b"data: [DONE]\n\n",
]


def test_events_are_joined_to_one_chunk():
    """One yield costs one POST."""
    assert list(join_events(EVENTS)) == [b"".join(EVENTS).decode()]


def test_chunks_break_between_events():
    """Each chunk holds whole events and fits."""
    event = b'data: "' + b"\xc3\xa9\\n" * 50_000 + b'"\n\n'
    chunks = list(join_events([event] * 20))
    assert "".join(chunks) == (event * 20).decode()
    assert all(chunk.endswith('"\n\n') for chunk in chunks)
    assert max(json_bytes(chunk) for chunk in chunks) <= MAX_CHUNK_BYTES
    assert [chunk.count("data:") for chunk in chunks] == [3, 3, 3, 3, 3, 3, 2]


def test_one_event_over_the_limit_is_split_between_characters():
    """The platform would refuse it whole; the reader joins the pieces."""
    event = ("data: " + "🦙\x01" * 600_000 + "\n\n").encode()
    chunks = list(join_events([b"data: 1\n\n", event, b"data: 2\n\n"]))
    assert "".join(chunks).encode() == b"data: 1\n\n" + event + b"data: 2\n\n"
    assert max(json_bytes(chunk) for chunk in chunks) <= MAX_CHUNK_BYTES


def test_json_bytes_counts_what_the_sdk_sends():
    """Quotes and newlines grow, other characters are sent as UTF-8."""
    assert json_bytes('"é\n') == len(json.dumps('"é\n', ensure_ascii=False).encode()) == 8


def chunk(index=0, usage=None, finish_reason=None, **delta):
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "choices": [choice], "usage": usage}


def test_texts_are_joined_and_the_last_word_stands():
    """Role first, text in the middle, reason and usage at the end: all in one object."""
    chunks = [
        chunk(role="assistant", content=""),
        chunk(content="Pa"),
        chunk(content="ris"),
        chunk(finish_reason="stop"),
        {"id": "chatcmpl-1", "choices": [], "usage": {"completion_tokens": 2}},
    ]
    assert list(merge_chunks(chunks)) == [
        {
            "id": "chatcmpl-1",
            "choices": [
                {
                    "index": 0,
                    "delta": {"role": "assistant", "content": "Paris"},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"completion_tokens": 2},
        }
    ]


def test_choices_are_kept_apart_by_their_index():
    """With n=2 the chunks of both answers come mixed."""
    merged = list(
        merge_chunks([chunk(0, content="a"), chunk(1, content="b"), chunk(0, content="c")])
    )
    assert [choice["delta"]["content"] for choice in merged[0]["choices"]] == ["ac", "b"]


def test_tool_calls_are_put_together():
    """The name comes once, the arguments in pieces."""

    def call(**function):
        return {"index": 0, "function": function}

    merged = list(
        merge_chunks(
            [
                chunk(tool_calls=[{"id": "c1", "type": "function", **call(name="f")}]),
                chunk(tool_calls=[call(arguments='{"a"')]),
                chunk(tool_calls=[call(arguments=": 1}")]),
            ]
        )
    )
    assert merged[0]["choices"][0]["delta"]["tool_calls"] == [
        {
            "id": "c1",
            "type": "function",
            "index": 0,
            "function": {"name": "f", "arguments": '{"a": 1}'},
        }
    ]


def test_log_probabilities_are_lists_that_grow():
    """One entry a token."""
    chunks = [chunk(content=text) for text in "ab"]
    for one, text in zip(chunks, "ab", strict=True):
        one["choices"][0]["logprobs"] = {"content": [{"token": text}]}
    merged = list(merge_chunks(chunks))
    assert merged[0]["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


def test_no_merged_chunk_is_over_the_limit():
    """Three chunks of 400 kB do not fit one POST."""
    merged = list(merge_chunks([chunk(content="x" * 400_000) for _ in range(3)]))
    assert [len(one["choices"][0]["delta"]["content"]) for one in merged] == [800_000, 400_000]
    assert max(json_bytes(one) for one in merged) <= MAX_CHUNK_BYTES
