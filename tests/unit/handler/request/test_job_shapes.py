"""The jobs of other workers in docs/moving.md become the requests that the page says."""

import json

import pytest

from builder.moving_page import job_shapes
from handler.errors import RequestError
from handler.request.parse import RequestParser

FIELDS = {
    "/v1/chat/completions": frozenset(
        "messages model temperature max_tokens stream stream_options".split()
    ),
    "/v1/completions": frozenset("prompt model max_tokens stream stream_options".split()),
}


def shapes(outcome):
    return [
        pytest.param(shape, id=json.dumps(shape["input"]))
        for shape in job_shapes()
        if outcome in shape
    ]


def read(shape):
    parser = RequestParser(["served"], "org/repository", FIELDS)
    return parser.parse_job({"id": "j1", "input": shape["input"]}).request


@pytest.mark.parametrize("shape", shapes("body"))
def test_the_job_of_another_worker_becomes_a_request(shape):
    request = read(shape)
    assert request.path == shape["path"]
    assert json.loads(request.body) == {**shape["body"], "model": "served"}


def test_a_job_without_a_body_is_a_get():
    request = read({"input": {"openai_route": "/v1/models"}})
    assert (request.method, request.path, request.body) == ("GET", "/v1/models", b"")


@pytest.mark.parametrize("shape", shapes("error"))
def test_a_job_that_means_nothing_here_is_an_error(shape):
    with pytest.raises(RequestError) as caught:
        read(shape)
    assert shape["error"] in str(caught.value)
