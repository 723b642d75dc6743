"""The engine's inference routes over HTTP."""

import uuid

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from handler.engine.call.deadline import Deadline
from handler.engine.interface import EngineRequest
from handler.engine.response import EngineResponse, send_request
from handler.errors import render
from handler.logs import job_id
from handler.metrics.request_log import RequestRecord
from handler.request.routes import POST, is_anthropic, route_label, route_name
from handler.serve.http.admission import AdmissionQueue
from handler.serve.http.body import RequestBody, cancelled_on_disconnect
from handler.serve.worker import Worker

METADATA = "metadata"  # vLLM's header with the offsets of the vectors in a binary response
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Inference:
    """Forwards calls to the engine; each POST needs a slot of the admission queue."""

    def __init__(self, worker: Worker, admission: AdmissionQueue) -> None:
        self._worker = worker
        self._admission = admission

    async def answer(self, request: Request, path: str, body: RequestBody, send: Send) -> None:
        """Answer one call.

        Raises:
            RequestError: the call failed before the response started.
            ClientDisconnected: the client has disconnected.
        """
        request_id = uuid.uuid4().hex
        job_id.set(request_id)
        with self._worker.recorded(request_id) as record:
            record.route = POST.get(route_name(path), record.route)
            content = await body.read()
            engine_request = await body.off_loop(
                len(content),
                self._worker.parser.parse_http,
                method=request.method,
                path=path,
                query=request.url.query,
                body=content,
                content_type=request.headers.get("content-type", ""),
                request_id=request_id,
            )
            del content
            record.route = route_label(engine_request.path)
            with cancelled_on_disconnect(request.receive):
                if engine_request.method == "GET":
                    await self._forward(request, engine_request, record, send)
                    return
                slot = self._admission.enter()
                try:
                    await slot.acquired()
                    await self._forward(request, engine_request, record, send)
                finally:
                    slot.close()

    async def _forward(
        self, request: Request, engine_request: EngineRequest, record: RequestRecord, send: Send
    ) -> None:
        record.sent(route_label(engine_request.path), engine_request.body)
        async with send_request(
            self._worker.runtime,
            engine_request,
            deadline=Deadline(self._worker.request_timeout_seconds),
            # A GET of a stored response would count its tokens again.
            on_data=record.add_output if engine_request.method == "POST" else lambda _: None,
        ) as response:
            if response.is_stream:
                await _send_stream(response, engine_request.path, record, send)
                return
            body = await response.read_all()
            if response.status >= 400 or response.content_type.startswith("application/json"):
                response.decode(body)  # raises the engine's error
            record.status = response.status
            headers = {"x-request-id": record.id}
            if METADATA in response.headers:
                headers[METADATA] = response.headers[METADATA]
            if response.content_type:
                headers["content-type"] = response.content_type
            response_to_client = Response(body, response.status, headers)
            await response_to_client(request.scope, request.receive, send)


async def _send_stream(
    response: EngineResponse, path: str, record: RequestRecord, send: Send
) -> None:
    record.streams = True
    headers = {**STREAM_HEADERS, "content-type": response.content_type, "x-request-id": record.id}
    head = Response(status_code=response.status, headers=headers)
    del head.headers["content-length"]
    start = {"type": "http.response.start", "status": head.status_code, "headers": head.raw_headers}
    await send(start)

    async def write(data: bytes, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})

    try:
        async for events in response.events():
            await write(b"".join(events))
        record.status = response.status
    except Exception as error:
        record.failed(error)
        await write(_error_event(error, is_anthropic(path)))
    await write(b"", more=False)


def _error_event(error: Exception, for_anthropic: bool) -> bytes:
    """Return the last event of a stream, with the error."""
    name = b"event: error\n" if for_anthropic else b""
    return name + b"data: " + render(error, for_anthropic).encode() + b"\n\n"
