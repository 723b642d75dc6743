"""The runner of batch lines, with the limits and errors of a single job."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass

from handler.engine.call.deadline import Deadline
from handler.engine.interface import EngineRequest
from handler.engine.response import send_request
from handler.engine.runtime import EngineRuntime
from handler.errors import EngineUnavailable
from handler.logs import job_id
from handler.metrics.request_log import RequestRecord
from handler.request.parse import RequestParser
from handler.request.routes import find_route
from handler.serve.batch.jsonl import BatchLine, error_result, success_result

MAX_LOGGED_ID_CHARACTERS = 64


@dataclass(frozen=True)
class LineRunner:
    """Runs lines on one engine.

    Attributes:
        runtime: the running engine.
        parser: the parser of requests.
        recorded: records a request for the log and the metrics.
        timeout_seconds: the limit for each line, None for no limit.
        slot: returns a context manager that holds an engine slot.
    """

    runtime: EngineRuntime
    parser: RequestParser
    recorded: Callable[[str], AbstractContextManager[RequestRecord]]
    timeout_seconds: float | None
    slot: Callable[[], AbstractAsyncContextManager[None]]

    async def result(self, line: BatchLine, batch_id: str) -> tuple[bytes, bool]:
        """Return the result of a line, and whether it succeeded.

        Raises:
            EngineUnavailable: the engine is stopping or dead, so every further line would fail.
        """
        request_id = f"{batch_id}-{line.number}"
        job_id.set(f"{batch_id}/{_loggable(line.custom_id or str(line.number))}")
        with self.recorded(request_id) as record:
            try:
                if line.error is not None:
                    raise line.error
                record.route = find_route(line.url.partition("?")[0], in_job=True).path
                data = {"route": line.url, "method": "POST", "body": line.body}
                parsed = self.parser.parse_job({"id": request_id, "input": data})
                body = await self._answer(parsed.request, record)
                record.status = 200
                return success_result(line, request_id, body), True
            except Exception as error:
                if isinstance(error, EngineUnavailable) and not self.runtime.is_serving:
                    raise
                record.failed(error)
                return error_result(line, request_id, error), False

    async def _answer(self, request: EngineRequest, record: RequestRecord) -> object:
        async with self.slot():
            record.sent(request.path, request.body)
            async with send_request(
                self.runtime,
                request,
                deadline=Deadline(self.timeout_seconds),
                on_data=record.add_output,
            ) as response:
                return await response.value()


def _loggable(custom_id: str) -> str:
    """Return a custom_id as one short line for the log."""
    printable = "".join(each for each in custom_id if each.isprintable())
    return printable[:MAX_LOGGED_ID_CHARACTERS]
