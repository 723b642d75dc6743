"""A call of one of the engine's inference routes → the engine's own answer, as it comes."""

import contextlib
import uuid

from handler.engine.asgi_call import AsgiCall
from handler.engine.deadline import Deadline
from handler.engine.interface import EngineRequest
from handler.engine.response import code_in, refusal, value, whole_body
from handler.engine.sse import EventSplitter, error_in
from handler.engine.usage import is_count
from handler.errors import render
from handler.logs import job_id
from handler.metrics.request_log import RequestRecord
from handler.request.routes import POST, is_anthropics, route_name
from handler.serve.http.admission import AdmissionQueue
from handler.serve.http.request import HttpCall
from handler.serve.worker import Worker

METADATA = "metadata"  # vLLM's, of an embedding in bytes: where each vector is
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Inference:
    """Answers calls with one engine.

    Args:
        worker: whose engine, limits and metrics they share.
        slots: places in the engine.
    """

    def __init__(self, worker: Worker, slots: AdmissionQueue) -> None:
        self._worker = worker
        self._host = worker.host
        self._slots = slots

    async def answer(self, call: HttpCall, path: str) -> None:
        """Answer a call of the engine's `path`.

        Raises:
            RequestError: it is not answered, and nothing is sent yet.
            ClientGone: there is nobody to answer.
        """
        name = uuid.uuid4().hex
        job_id.set(name)
        with self._worker.recorded(name) as record:
            record.route = POST.get(route_name(path), record.route)
            body = await call.body()
            request = self._worker.reader.read_http(
                call.method, path, call.query, body, call.content_type, name
            )
            record.route = request.path
            with call.until_gone():
                if request.method == "GET":
                    await self._forward(call, request, record)
                    return
                place = self._slots.reserve()
                try:
                    await place.taken()
                    await self._forward(call, request, record)
                finally:
                    place.close()

    async def _forward(self, call: HttpCall, request: EngineRequest, record: RequestRecord) -> None:
        clock = Deadline(self._worker.timeout_seconds)
        record.sent(request.path, request.body)
        async with contextlib.AsyncExitStack() as stack:
            exchange = await clock.bound(stack.enter_async_context(self._host.open(request)))
            content_type = exchange.headers.get("content-type", "")
            if exchange.status < 400 and content_type.startswith("text/event-stream"):
                await self._stream(call, request, exchange, clock, record)
                return
            body = await whole_body(exchange, clock)
            record.answered(body)
            if exchange.status >= 400 or content_type.startswith("application/json"):
                value(exchange, body, request.path, self._host)  # raises what is an error
            record.status = exchange.status
            headers = {"x-request-id": record.id}
            if METADATA in exchange.headers:
                headers[METADATA] = exchange.headers[METADATA]
            await call.answer(exchange.status, body, content_type, headers)

    async def _stream(
        self,
        call: HttpCall,
        request: EngineRequest,
        exchange: AsgiCall,
        clock: Deadline,
        record: RequestRecord,
    ) -> None:
        record.streams = True
        cutter, ended = EventSplitter(), False
        headers = {**STREAM_HEADERS, "x-request-id": record.id}
        await call.start(exchange.status, exchange.headers["content-type"], headers)
        record.status = exchange.status
        self._host.pacer.begin()
        try:
            while not ended:
                data = await clock.bound(exchange.read())
                ended = not data
                record.answered(data)
                events = cutter.feed(data) if data else cutter.end()
                failures = [error_in(event) for event in events]
                failure = next((each for each in failures if each is not None), None)
                if failure is not None:
                    events = events[: failures.index(failure)]
                if request.hides_count:
                    events = [event for event in events if not is_count(event)]
                if events:
                    record.yields += 1
                    await call.write(b"".join(events))
                if failure is not None:
                    raise refusal(code_in(failure), failure, self._host)
        except Exception as error:
            record.failed(error)
            await call.write(_event(request.path, error))
        finally:
            self._host.pacer.end()
        await call.write(b"", more=False)


def _event(path: str, error: Exception) -> bytes:
    """Return an error as the last event of a stream, as the route's clients read it."""
    for_anthropic = is_anthropics(path)
    name = b"event: error\n" if for_anthropic else b""
    return name + b"data: " + render(error, for_anthropic).encode() + b"\n\n"
