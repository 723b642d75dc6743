"""Retries of a result's POST: longer than the SDK's, and after a broken connection too."""

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web
from aiohttp_retry import FibonacciRetry

from handler.serve.queue import delivery
from handler.serve.worker import LAST_OUTPUT_GRACE_SECONDS

BODY = '{"output": "é"}'
PAUSES = (0.02, 0.03)  # short ones
BROKEN = None  # instead of a status: the server closes the connection


@contextlib.asynccontextmanager
async def serving(respond):
    """A server with one handler; yields its URL."""
    app = web.Application()
    app.router.add_post("/", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def transmit(caplog, *statuses):
    """Post a result to a server with these answers; return the outcomes, pauses and error."""
    bodies, outcomes, error = [], [], None
    remaining = list(statuses)

    async def respond(request):
        bodies.append(await request.text())
        status = remaining.pop(0)
        if status is BROKEN:
            request.transport.close()
            return web.Response()
        return web.Response(status=status)

    async def run():
        nonlocal error
        posts = delivery.Delivery(lambda outcome, _, size: outcomes.append((outcome, size)), PAUSES)
        async with serving(respond) as url:
            try:
                await posts.post(url, BODY.encode(), ())
            except aiohttp.ClientError as raised:
                error = raised
            finally:
                posts.connections.close()

    with caplog.at_level("WARNING", delivery.log.name):
        asyncio.run(run())
    assert bodies == [BODY] * len(statuses)
    assert [size for _, size in outcomes] == [len(BODY.encode())] * len(statuses)
    pauses = [pause for record in caplog.records for pause in record.args[1:]]
    return [outcome for outcome, _ in outcomes], pauses, error


@pytest.mark.parametrize(
    ("statuses", "pauses"),
    [
        ([200], []),
        ([500, 200], [0.02]),
        ([429, 200], [0.02]),
        ([BROKEN, 200], [0.0]),
        ([503, BROKEN, 200], [0.02, 0.0]),
        ([BROKEN, BROKEN, 200], [0.0, 0.03]),
    ],
    ids=["taken", "500", "429", "broken connection", "503 and broken", "broken twice"],
)
def test_a_result_is_posted_until_it_is_taken(caplog, statuses, pauses):
    outcomes = ["again"] * len(pauses) + ["taken"]
    assert transmit(caplog, *statuses) == (outcomes, pauses, None)


@pytest.mark.parametrize(
    ("statuses", "error_type", "pauses"),
    [
        ([400], aiohttp.ClientResponseError, []),
        ([500, 500, 500], aiohttp.ClientResponseError, [0.02, 0.03]),
        ([BROKEN, BROKEN, BROKEN], aiohttp.ServerDisconnectedError, [0.0, 0.03]),
    ],
    ids=["rejected", "always 500", "always broken"],
)
def test_a_result_that_is_lost_raises_an_error_of_aiohttp(caplog, statuses, error_type, pauses):
    outcomes, seen_pauses, error = transmit(caplog, *statuses)
    assert (outcomes, seen_pauses) == (["again"] * len(pauses) + ["lost"], pauses)
    assert type(error) is error_type


def test_the_retries_begin_as_the_sdks():
    sdk = FibonacciRetry(attempts=3)
    pauses = tuple(sdk.get_timeout(attempt) for attempt in (1, 2))
    assert pauses == delivery.RETRY_PAUSES_SECONDS[:2]


def test_the_headers_are_those_of_the_sdk():
    """Its session's, but the content type of its `_transmit`."""
    received = []

    async def respond(request):
        received.append(request.headers)
        return web.Response()

    async def run():
        posts = delivery.Delivery()
        sdk_headers = {
            "Content-Type": "application/json",
            "Authorization": "key",
            "Accept-Encoding": "gzip, deflate",
            "X-Request-ID": "another job",
        }
        async with (
            serving(respond) as url,
            aiohttp.ClientSession(headers=sdk_headers) as session,
        ):
            headers = delivery.result_headers(session, "job")
            await posts.post(url, BODY.encode(), headers)
            posts.connections.close()
        return url.split("/")[2]

    host = asyncio.run(run())
    assert [dict(headers) for headers in received] == [
        {
            "Host": host,
            "Authorization": "key",
            "X-Request-ID": "job",
            "charset": "utf-8",
            "Content-Type": "application/x-www-form-urlencoded",
            "Content-Length": str(len(BODY.encode())),
        }
    ]


def test_the_last_result_of_a_drain_has_the_retries_of_the_sdk():
    """Two refusals took the whole grace: the job ended with its worker, and had no reason."""
    assert sum(delivery.RETRY_PAUSES_SECONDS[:2]) < LAST_OUTPUT_GRACE_SECONDS
