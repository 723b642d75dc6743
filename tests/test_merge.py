"""Chunks of one answer become fewer chunks that say the same."""

from handler.engine.sse import MAX_CHUNK_BYTES, decode, json_bytes, merge


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
    assert list(merge(chunks)) == [
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
    merged = list(merge([chunk(0, content="a"), chunk(1, content="b"), chunk(0, content="c")]))
    assert [choice["delta"]["content"] for choice in merged[0]["choices"]] == ["ac", "b"]


def test_tool_calls_are_put_together():
    """The name comes once, the arguments in pieces."""

    def call(**function):
        return {"index": 0, "function": function}

    merged = list(
        merge(
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
    merged = list(merge(chunks))
    assert merged[0]["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


def test_no_merged_chunk_is_over_the_limit():
    """Three chunks of 400 kB do not fit one POST."""
    merged = list(merge([chunk(content="x" * 400_000) for _ in range(3)]))
    assert [len(one["choices"][0]["delta"]["content"]) for one in merged] == [800_000, 400_000]
    assert max(json_bytes(one) for one in merged) <= MAX_CHUNK_BYTES


def test_what_is_no_object_decodes_to_nothing():
    """Comments and the end mark carry no chunk."""
    assert [decode(b": ping\n\n"), decode(b"data: [DONE]\n\n"), decode(b'data: {"a": 1}\n\n')] == [
        None,
        None,
        {"a": 1},
    ]
