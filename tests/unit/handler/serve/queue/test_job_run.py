"""A job's POSTs: one for each output, then one with all of them or with the error."""

import asyncio
import json
from types import SimpleNamespace

import aiohttp
import pytest

from handler.serve.queue import job_run
from handler.serve.queue.job_run import JobRunner, encoded

STREAM, DONE = "JOB_STREAM_URL&isStream=false", "JOB_DONE_URL&isStream=true"
SESSION = SimpleNamespace(headers={"Authorization": "key", "x-request-id": "another job"})
HEADERS = ("Authorization", "X-Request-ID", "charset", "Content-Type")


class Posts(job_run.Delivery):
    """Keeps what is posted; a POST of `refused` is refused."""

    def __init__(self, refused=None):
        super().__init__()
        self.refused, self.made, self.headers_seen = refused, [], []

    async def post(self, url, body, headers):
        data = json.loads(body)
        if data == {"output": self.refused}:
            raise aiohttp.ClientConnectionError("gone")
        self.made.append((url, data))
        self.headers_seen.append(dict(headers))


def run(outputs, posts):
    """Run a job with these outputs; return how its generator ended."""
    ended = []

    async def handle(job):
        try:
            for output in outputs:
                yield output
            ended.append("last output")
        finally:
            ended.append("closed")

    asyncio.run(JobRunner(posts).run(handle, SESSION, {}, {"id": "a", "input": {}}))
    return ended


def test_each_output_is_posted_and_then_all_of_them():
    posts = Posts()
    assert run(["é", {"text": "b"}], posts) == ["last output", "closed"]
    assert posts.made == [
        (STREAM, {"output": "é"}),
        (STREAM, {"output": {"text": "b"}}),
        (DONE, {"output": ["é", {"text": "b"}]}),
    ]
    assert [tuple(headers) for headers in posts.headers_seen] == [HEADERS] * 3
    assert {headers["X-Request-ID"] for headers in posts.headers_seen} == {"a"}


def test_an_error_is_the_result():
    """The outputs before it stay in the stream."""
    posts = Posts()
    assert run(["a", {"error": "no"}, "b"], posts) == ["closed"]
    assert posts.made == [(STREAM, {"output": "a"}), (DONE, {"error": "no"})]


def test_an_output_that_the_platform_does_not_take_is_in_the_result(caplog):
    posts = Posts(refused="a")
    assert run(["a", "b"], posts) == ["last output", "closed"]
    assert posts.made == [(STREAM, {"output": "b"}), (DONE, {"output": ["a", "b"]})]
    assert caplog.messages == ["the platform did not take a result: gone"]


def test_a_job_that_is_cancelled_in_a_post_ends_there():
    """Its generator is closed before its task ends."""
    ended = []

    class HeldPosts(Posts):
        async def post(self, url, body, headers):
            await super().post(url, body, headers)
            posting.set()
            await asyncio.Event().wait()

    async def handle(job):
        try:
            yield "a"
        finally:
            ended.append("closed")

    async def cancel():
        task = asyncio.create_task(JobRunner(posts).run(handle, SESSION, {}, {"id": "a"}))
        await posting.wait()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled(), list(ended)

    posting, posts = asyncio.Event(), HeldPosts()
    assert asyncio.run(cancel()) == (True, ["closed"])
    assert posts.made == [(STREAM, {"output": "a"})]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("é\n", '{"output":"é\\n"}'),
        ("\ud800", '{"output": "\ud800"}'),
        (1 << 70, '{"output": 1180591620717411303424}'),
    ],
    ids=["text", "half of a pair", "large integer"],
)
def test_any_output_is_encoded(value, text):
    assert encoded({"output": value}) == text.encode("utf-8", "surrogatepass")
