"""Requests to the engine and its responses, for queue, HTTP, batches, warm-up and metrics.

`send_request` returns when the head of the response has arrived. The body is then read whole, or as
events. The engine's errors become exceptions: its error objects are passed on, except those of a
dying engine.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson

from handler.engine.call.asgi_call import AsgiCall
from handler.engine.call.deadline import Deadline
from handler.engine.call.sse import EventSplitter, error_in
from handler.engine.call.task_end import call_at_task_end
from handler.engine.call.usage import is_usage_event
from handler.engine.flags.aliases import flags_to_variables
from handler.engine.interface import EngineRequest
from handler.engine.runtime import ENGINE_DIED, EngineRuntime
from handler.errors import EngineError, EngineUnavailable, InvalidInput, UnknownRoute

log = logging.getLogger(__name__)

ERROR_TEXTS = ("error", "message", "detail")  # fields of an error that hold text for a person
BYTES = "application/octet-stream"


@contextlib.asynccontextmanager
async def send_request(
    runtime: EngineRuntime,
    request: EngineRequest,
    *,
    deadline: Deadline | None = None,
    call: AsgiCall | None = None,
    on_data: Callable[[bytes], object] = lambda _: None,
) -> AsyncIterator["EngineResponse"]:
    """Send a request; leaving the context, or the task's end, aborts it if it still runs.

    Args:
        runtime: the running engine.
        request: the request to send.
        deadline: bounds every wait for the engine.
        call: the call of `request`, if it was sent already.
        on_data: called with all body bytes as they arrive.

    Raises:
        RequestError: the engine is not running, or the deadline has passed.
    """
    deadline = deadline or Deadline()
    call = call or runtime.prepare_call(request)
    async with contextlib.AsyncExitStack() as stack:
        await deadline.wait_for(stack.enter_async_context(call))
        stack.enter_context(call_at_task_end(call.close))
        yield EngineResponse(runtime, request, call, deadline, on_data)


class EngineResponse:
    """The engine's response to one request, whose head has arrived."""

    def __init__(
        self,
        runtime: EngineRuntime,
        request: EngineRequest,
        call: AsgiCall,
        deadline: Deadline,
        on_data: Callable[[bytes], object],
    ) -> None:
        self._runtime = runtime
        self._request = request
        self._call = call
        self._deadline = deadline
        self._on_data = on_data

    @property
    def status(self) -> int:
        return self._call.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._call.headers

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "")

    @property
    def is_stream(self) -> bool:
        return self.status < 400 and self.content_type.startswith("text/event-stream")

    async def read_all(self) -> bytes:
        """Return the whole body, also that of an error.

        Raises:
            RequestError: the engine died, or the deadline has passed.
        """
        parts = []
        while data := await self._deadline.wait_for(self._call.read()):
            parts.append(data)
        body = b"".join(parts)
        self._on_data(body)
        if self._request.transform_response is not None and self.status < 400:
            body = orjson.dumps(self._request.transform_response(orjson.loads(body)))
        return body

    async def value(self) -> Any:
        """Return the whole body as a JSON value, or as text where it is not JSON.

        Raises:
            RequestError: see `read_all` and `decode`.
        """
        return self.decode(await self.read_all())

    def decode(self, body: bytes) -> Any:
        """Return a whole body as a JSON value, or as text where it is not JSON.

        Raises:
            EngineError: the body is an error, with any status.
            InvalidInput: it is binary.
        """
        text = body.decode("utf-8", "replace")
        payload: Any = text
        if self.content_type.startswith("application/json"):
            payload = orjson.loads(text)
        elif self.content_type.startswith(BYTES):
            raise InvalidInput(
                "The output of a job is JSON and cannot hold bytes: set encoding_format to base64 "
                "or float.",
                "encoding_format",
            )
        if self.status == 404 and payload == {"detail": "Not Found"}:
            raise UnknownRoute(f"This model does not serve {self._request.path}.", "route")
        if self.status >= 400:
            raise self._error(self.status, payload)
        if isinstance(payload, dict) and payload.get("error"):
            raise self._error(_status_in(payload), payload)
        return payload

    async def events(self, with_error: bool = False) -> AsyncIterator[list[bytes]]:
        """Yield the events of a stream, as many at a time as have arrived.

        Args:
            with_error: whether the event of an error is yielded too, as the engine wrote it.

        Raises:
            EngineError: an event is an error; those before it have been yielded.
            RequestError: the engine died, or the deadline has passed.
        """
        splitter, ended = EventSplitter(), False
        pacer = self._runtime.pacer
        pacer.stream_opened()
        with call_at_task_end(pacer.stream_closed):
            while not ended:
                data = await self._deadline.wait_for(self._call.read())
                ended = not data
                self._on_data(data)
                events = splitter.feed(data) if data else splitter.end()
                errors = [error_in(event) for event in events]
                error = next((each for each in errors if each is not None), None)
                if error is not None:
                    events = events[: errors.index(error) + with_error]
                if self._request.hide_usage:
                    events = [event for event in events if not is_usage_event(event)]
                if events:
                    yield events
                if error is not None:
                    raise self._error(_status_in(error), error)

    def _error(self, status: int, payload: Any) -> EngineError | EngineUnavailable:
        running = self._runtime.running
        if status >= 500 and (running is None or not running.alive()):
            return EngineUnavailable(ENGINE_DIED)
        error = EngineError(status, _name_variables(payload))
        if str(error) == ENGINE_DIED:  # reported before its process has ended
            return EngineUnavailable(ENGINE_DIED)
        if status >= 500:
            # Not its message, which may quote the caller's input.
            log.error("the engine answered %d (%s)", status, error.type)
        return error


def _name_variables(payload: Any) -> Any:
    """Replace command-line flags in an engine's error by their environment variables."""
    if isinstance(payload, dict):
        return {
            name: _name_variables(value) if name in ERROR_TEXTS else value
            for name, value in payload.items()
        }
    return flags_to_variables(payload) if isinstance(payload, str) else payload


def _status_in(payload: Any) -> int:
    """Return the HTTP status that an error object names, or 500."""
    error = payload.get("error") if isinstance(payload, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500
