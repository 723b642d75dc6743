"""What a request's record says of its times and its end."""

import pytest

from handler.metrics.record import Record

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
    record = Record("r")
    seen = None
    for number, piece in enumerate(pieces):
        record.answered(piece)
        if record.first_at is not None and seen is None:
            seen = number
    assert seen == first
