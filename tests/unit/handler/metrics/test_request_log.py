"""What a request's record says of its times and its end."""

import json
import re

import pytest

from handler.engine.call.usage import Usage, UsageCounter
from handler.errors import InvalidInput
from handler.metrics.request_log import RequestRecord

CREATED = b'event: response.created\ndata: {"type":"response.created"}\n\n'
WAITING = b'event: response.in_progress\ndata: {"type":"response.in_progress"}\n\n'
ITEM = b'event: response.output_item.added\ndata: {"type":"response.output_item.added"}\n\n'


@pytest.mark.parametrize(
    ("pieces", "first"),
    [
        ([CREATED, WAITING, ITEM], 2),
        ([CREATED + WAITING + ITEM], 0),
        ([CREATED + WAITING], None),
        ([b'data: {"choices": []}\n\n'], 0),
        ([b"event: message_start\ndata: {}\n\n"], 0),
        ([b'{"id": "x"}'], 0),
        ([b""], None),
    ],
)
def test_what_counts_as_the_first_token(pieces, first):
    """/v1/responses says that it has begun before the engine has computed anything."""
    record = RequestRecord("r")
    seen = None
    for number, piece in enumerate(pieces):
        record.add_output(piece)
        if record.first_output_at is not None and seen is None:
            seen = number
    assert seen == first


def test_anthropics_count_of_the_input_leaves_out_what_the_cache_had():
    """The prompt is all of it; a stream says at its end what its begin did not know."""
    started = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":204}}}\n\n'
    counts = {"input_tokens": 76, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 28}
    counts |= {"output_tokens": 5}
    ended = b'event: message_delta\ndata: {"usage":' + json.dumps(counts).encode() + b"}\n\n"
    counter = UsageCounter()
    counter.add(started)
    assert counter.usage == Usage(204, 0, 0)
    counter.add(ended)
    assert counter.usage == Usage(204, 5, 28)


def own(completion, **more):
    """Return an answer of SGLang's own routes."""
    counts = {"prompt_tokens": 3, "completion_tokens": completion, "cached_tokens": 1}
    return {"text": "…", "meta_info": {"id": "x", **counts}} | more


@pytest.mark.parametrize(
    ("values", "is_stream", "usage"),
    [
        ([own(5)], False, Usage(3, 5, 1)),
        ([[own(5), own(2)]], False, Usage(6, 7, 2)),
        ([own(1), own(2), own(5)], True, Usage(3, 5, 1)),
        ([own(1, index=0), own(1, index=1), own(5, index=0)], True, Usage(6, 6, 2)),
        ([{"text": '"meta_info":'}, {"meta_info": None}], True, Usage()),
    ],
    ids=["answer", "answers", "stream", "stream of two", "none"],
)
def test_sglangs_own_routes_count_each_prompt(values, is_stream, usage):
    """In running totals."""
    counter = UsageCounter()
    for each in values:
        text = json.dumps(each, separators=(",", ":")).encode()
        counter.add(b"data: " + text + b"\n\n" if is_stream else text)
    counter.add(b"data: [DONE]\n\n")
    assert counter.usage == usage


def test_the_line_of_a_request_without_a_route_and_tokens_has_neither(caplog):
    caplog.set_level("INFO", "handler")
    record = RequestRecord("r")
    record.failed(InvalidInput("no such route"))
    record.finish()
    [line] = caplog.records
    assert re.fullmatch(r"unknown route 400 refused, 0\.\d\d s", line.getMessage())
    assert (line.fields["route"], line.fields["promptTokens"]) == ("?", 0)
