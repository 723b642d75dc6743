"""The exchange carries bytes as they come, holds the app back, and aborts it.

The app here is a small Starlette app on a loop of its own: it can be asked what an engine cannot,
such as how far it got while nobody read. The real engine stands behind the same exchange in
test_endpoint.py.
"""

import asyncio
import json
import threading

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from handler.engine.call.asgi_call import HIGH_WATER_BYTES, AsgiCall
from handler.engine.interface import EngineRequest
from handler.errors import EngineUnavailable


class App:
    """Routes that answer in the ways an engine's do, and what was seen of them."""

    def __init__(self):
        self.sent = 0
        self.began = threading.Event()
        self.tidying = threading.Event()  # all bytes are sent
        self.ended = threading.Event()
        self.go = asyncio.Event()
        self.starlette = Starlette(
            routes=[
                Route("/echo", self.echo, methods=["GET", "POST"]),
                Route("/empty", self.empty),
                Route("/ticks", self.ticks),
                Route("/burst", self.burst),
                Route("/flood", self.flood),
                Route("/deaf", self.deaf),
                Route("/broken", self.broken),
                Route("/raise", self.raises),
            ]
        )

    async def echo(self, request: HttpRequest):
        return JSONResponse(
            {
                "method": request.method,
                "path": request.url.path,
                "query": request.url.query,
                "body": (await request.body()).decode(),
                "type": request.headers["content-type"],
                "id": request.headers.get("x-request-id"),
            }
        )

    async def empty(self, _):
        return Response(status_code=204)

    async def ticks(self, _):
        async def body():
            yield b"one "
            await self.go.wait()
            yield b"two"

        return StreamingResponse(body(), media_type="text/event-stream")

    async def burst(self, _):
        async def body():
            yield b"last tokens "
            yield b"usage "
            yield b"[DONE]"

        async def tidy_up():
            self.tidying.set()
            try:
                await self.go.wait()
            finally:
                self.ended.set()

        return StreamingResponse(body(), background=BackgroundTask(tidy_up))

    async def flood(self, _):
        async def body():
            try:
                while True:
                    await asyncio.sleep(0)  # as an engine's generator waits for its engine
                    self.began.set()
                    self.sent += 1000
                    yield b"x" * 1000
            finally:
                self.ended.set()

        return StreamingResponse(body())

    async def deaf(self, _):
        try:
            self.began.set()
            await self.go.wait()
        finally:
            self.ended.set()

    async def broken(self, _):
        async def body():
            yield b"half"
            raise RuntimeError("the engine broke")

        return StreamingResponse(body())

    async def raises(self, _):
        raise RuntimeError("before anything was sent")


@pytest.fixture
def engine():
    """An event loop on another thread, with the app."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield App(), loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def exchange(engine, path, method="GET", **more):
    app, loop = engine
    return AsgiCall(app.starlette, loop, EngineRequest(method, path, **more))


def test_a_request_arrives_whole_and_the_answer_comes_back(engine):
    """Method, path, query, body, content type and the job's id."""

    async def run():
        request = {"body": "é".encode(), "query": "a=1", "request_id": "j1"}
        async with exchange(engine, "/echo", "POST", **request) as open_exchange:
            assert open_exchange.headers["content-type"] == "application/json"
            return open_exchange.status, json.loads(await open_exchange.read())

    assert asyncio.run(run()) == (
        200,
        {
            "method": "POST",
            "path": "/echo",
            "query": "a=1",
            "body": "é",
            "type": "application/json",
            "id": "j1",
        },
    )


def test_an_empty_answer_ends_at_once(engine):
    """204 has no body."""

    async def run():
        async with exchange(engine, "/empty") as open_exchange:
            return open_exchange.status, await open_exchange.read()

    assert asyncio.run(run()) == (204, b"")


def test_bytes_come_as_they_are_produced(engine):
    """The second half is not waited for."""
    app, loop = engine

    async def run():
        async with exchange(engine, "/ticks") as open_exchange:
            first = await open_exchange.read()
            loop.call_soon_threadsafe(app.go.set)
            return first, await open_exchange.read(), await open_exchange.read()

    assert asyncio.run(run()) == (b"one ", b"two", b"")


def test_what_the_app_sends_together_is_read_together_and_its_end_with_it(engine):
    """Each read is a POST. The app may have work to do after its last byte: SGLang has, for 2 s."""
    app, loop = engine

    async def run():
        async with exchange(engine, "/burst") as open_exchange:
            await until(app.tidying.is_set)
            read = [await open_exchange.read(), await open_exchange.read()]
        await turns_of_the_loop(engine)
        assert not app.ended.is_set()  # it is not aborted
        loop.call_soon_threadsafe(app.go.set)
        await until(app.ended.is_set)
        return read

    assert asyncio.run(run()) == [b"last tokens usage [DONE]", b""]


def test_a_reader_that_is_away_holds_the_app_back(engine):
    """The app stops at the high-water mark, goes on after a read, and no byte is lost."""
    app, _ = engine

    async def run():
        async with exchange(engine, "/flood") as open_exchange:
            seen = []
            for _ in range(3):
                await until(lambda: app.sent >= HIGH_WATER_BYTES + sum(seen))
                await turns_of_the_loop(engine)
                before = app.sent
                seen.append(len(await open_exchange.read()))
                assert sum(seen) == before
            return seen

    whole = -(-HIGH_WATER_BYTES // 1000) * 1000
    assert asyncio.run(run()) == [whole] * 3


@pytest.mark.parametrize("path", ["/flood", "/deaf"], ids=["listens", "does not listen"])
def test_leaving_the_exchange_ends_the_app_work(engine, path):
    """By http.disconnect, or by cancelling an app that does not listen."""
    app, _ = engine

    async def run():
        task = asyncio.ensure_future(read_once(engine, path))
        await until(app.began.is_set)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())
    assert app.ended.wait(60)


def test_an_answer_that_breaks_off_is_an_error(engine):
    """Half an answer must not look like a whole one."""

    async def run():
        async with exchange(engine, "/broken") as open_exchange:
            half = await open_exchange.read()
            with pytest.raises(RuntimeError, match="the engine broke"):
                await open_exchange.read()
            return half

    assert asyncio.run(run()) == b"half"


def test_an_error_that_the_app_has_answered_stays_an_answer(engine):
    """Starlette answers 500 and raises again."""

    async def run():
        async with exchange(engine, "/raise") as open_exchange:
            return open_exchange.status, await open_exchange.read()

    assert asyncio.run(run()) == (500, b"Internal Server Error")


def test_a_failed_exchange_tells_its_reader(engine):
    """When the engine dies nobody waits for ever."""

    async def run():
        async with exchange(engine, "/ticks") as open_exchange:
            assert await open_exchange.read() == b"one "
            reading = asyncio.ensure_future(open_exchange.read())
            await asyncio.sleep(0)
            open_exchange.fail(EngineUnavailable("the engine died"))
            with pytest.raises(EngineUnavailable, match="the engine died"):
                await reading

    asyncio.run(run())


def test_a_closed_loop_is_an_unavailable_engine():
    """The engine has been stopped before."""
    loop = asyncio.new_event_loop()
    loop.close()

    async def run():
        async with AsgiCall(App().starlette, loop, EngineRequest("GET", "/echo")):
            pass

    with pytest.raises(EngineUnavailable, match="not running"):
        asyncio.run(run())


def test_many_exchanges_at_once_do_not_mix(engine):
    """Two hundred jobs on one bridge."""

    async def one(number):
        async with exchange(engine, "/echo", "POST", body=str(number).encode()) as open_exchange:
            return int(json.loads(await open_exchange.read())["body"])

    async def run():
        return await asyncio.gather(*map(one, range(200)))

    assert asyncio.run(run()) == list(range(200))


async def read_once(engine, path):
    async with exchange(engine, path) as open_exchange:
        await open_exchange.read()
        await asyncio.Event().wait()


async def turns_of_the_loop(engine):
    """Wait until other work on the app's loop is done, as whatever was about to happen would be."""
    for number in range(10):
        async with exchange(engine, "/echo", "POST", body=str(number).encode()) as other:
            await other.read()


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)
