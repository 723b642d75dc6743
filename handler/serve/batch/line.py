"""One line of a batch, asked: the same request, limits and errors as a job of its own has."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass

from handler.engine.deadline import Deadline
from handler.engine.interface import EngineRequest
from handler.engine.response import value, whole_body
from handler.engine.runtime import EngineRuntime
from handler.errors import EngineUnavailable
from handler.logs import job_id
from handler.metrics.request_log import RequestRecord
from handler.request.parse import RequestParser
from handler.request.routes import POST, route_name
from handler.serve.batch.jsonl import BatchLine, answered, failed

SHOWN_CHARACTERS = 64


@dataclass(frozen=True)
class LineRunner:
    """Asks one engine.

    Attributes:
        host: the running engine.
        reader: understands requests.
        recorded: has what happens to one in the log and in the metrics.
        timeout_seconds: how long each may take, None for no bound.
        place: what it has to have while it is asked.
    """

    host: EngineRuntime
    reader: RequestParser
    recorded: Callable[[str], AbstractContextManager[RequestRecord]]
    timeout_seconds: float | None
    place: Callable[[], AbstractAsyncContextManager[None]]

    async def result(self, line: BatchLine, batch: str) -> tuple[bytes, bool]:
        """Return a line's result, and whether it is a success.

        Args:
            line: to be asked.
            batch: the job's id.

        Raises:
            EngineUnavailable: no line can be asked any more.
        """
        name = f"{batch}-{line.number}"
        job_id.set(f"{batch}/{_harmless(line.custom_id or str(line.number))}")
        with self.recorded(name) as record:
            try:
                if line.fault is not None:
                    raise line.fault
                record.route = POST[route_name(line.url.partition("?")[0])]
                data = {"route": line.url, "method": "POST", "body": line.body}
                request = self.reader.read({"id": name, "input": data}).request
                body = await self._asked(request, record)
                record.status = 200
                return answered(line, name, body), True
            except Exception as error:
                if isinstance(error, EngineUnavailable) and not self.host.serves:
                    raise
                record.failed(error)
                return failed(line, name, error), False

    async def _asked(self, request: EngineRequest, record: RequestRecord) -> object:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.place())
            clock = Deadline(self.timeout_seconds)
            record.sent(request.path, request.body)
            exchange = await clock.bound(stack.enter_async_context(self.host.open(request)))
            body = await whole_body(exchange, clock)
            record.answered(body)
            return value(exchange, body, request.path, self.host)


def _harmless(custom_id: str) -> str:
    """Return what of it may stand in a log: no line breaks, and not much."""
    return "".join(each for each in custom_id if each.isprintable())[:SHOWN_CHARACTERS]
