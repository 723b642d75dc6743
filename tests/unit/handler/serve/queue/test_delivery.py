"""A result is sent again where that may help, and only there."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from handler.serve.queue import delivery

DONE = (200, "OK")


def posted(monkeypatch, *answers):
    """Transmit one result to a server with these answers; return its bodies and the pauses."""
    bodies, pauses, left = [], [], list(answers)

    async def answer(request):
        bodies.append(await request.text())
        what = left.pop(0)
        if what is None:
            request.transport.close()  # as a proxy that is restarted
            return web.Response()
        return web.Response(status=what)

    async def pause(seconds):
        pauses.append(seconds)

    async def run():
        app = web.Application()
        app.router.add_post("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        monkeypatch.setattr(delivery.asyncio, "sleep", pause)
        posts = delivery.Delivery()
        try:
            async with aiohttp.ClientSession() as session:
                await posts.transmit(session, f"http://127.0.0.1:{port}/", '{"output": "é"}')
        finally:
            posts.connections.close()
            monkeypatch.undo()
            await runner.cleanup()

    try:
        asyncio.run(run())
    finally:
        assert set(bodies) == {'{"output": "é"}'}
    return len(bodies), pauses


@pytest.mark.parametrize(
    ("answers", "pauses"),
    [
        ([200], []),
        ([500, 200], [2.0]),
        ([429, 200], [2.0]),
        ([None, 200], [0.0]),
        ([503, None, 200], [2.0, 0.0]),
        ([None, None, 200], [0.0, 3.0]),
    ],
    ids=["taken", "500", "429", "broken connection", "both", "broken twice"],
)
def test_a_result_is_sent_until_it_is_taken(monkeypatch, answers, pauses):
    """With as many tries as the SDK has."""
    assert posted(monkeypatch, *answers) == (len(answers), pauses)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([400], aiohttp.ClientResponseError),
        ([500, 500, 500], aiohttp.ClientResponseError),
        ([None, None, None], aiohttp.ServerDisconnectedError),
    ],
    ids=["refused", "always 500", "always broken"],
)
def test_what_is_not_taken_raises_what_the_sdk_knows(monkeypatch, answers, error):
    """A refusal at once, for the same body would be refused again."""
    with pytest.raises(error):
        posted(monkeypatch, *answers)
