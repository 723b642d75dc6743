"""The platform's answers with jobs, decoded so that a large one does not hold the event loops.

Nothing may hold the interpreter's lock for long: the values of a large answer are counted before it
is decoded, as those of an HTTP body. Beyond the bound its jobs are separated in small steps, on a
thread, and only a job that has too many values fails.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from handler.errors import InputTooLarge
from handler.request.body_limits import SUBMISSION_FACTOR, BodyLimits
from handler.request.json_text import cut, loads, spans

OFF_LOOP_BYTES = 100_000  # decoding a larger answer takes a millisecond and more


class LargeJob(dict[str, Any]):
    """A job of a large answer, which the worker parses on a thread.

    Attributes:
        answer_bytes: the size of the answer.
        error: why it fails, None if its input was decoded.
    """

    def __init__(
        self, job: Mapping[str, Any], answer_bytes: int, error: InputTooLarge | None = None
    ) -> None:
        super().__init__(job)
        self.answer_bytes = answer_bytes
        self.error = error


class JobDecoder:
    """Decodes answers; without limits any is decoded whole."""

    def __init__(self, limits: BodyLimits | None = None) -> None:
        self._limits = limits

    async def decode(self, body: bytes) -> Any:
        """Return an answer's JSON; raises ValueError if it is none."""
        if len(body) < OFF_LOOP_BYTES:
            return loads(body.decode())
        return await asyncio.to_thread(self._decode_large, body)

    def _decode_large(self, body: bytes) -> Any:
        if self._error(body) is None:
            answer = loads(body.decode())
            if isinstance(answer, list):
                return [_marked(each, len(body)) for each in answer]
            return _marked(answer, len(body))
        return [self._decode_job(text, len(body)) for text in _jobs(body)]

    def _decode_job(self, text: bytes, answer_bytes: int) -> LargeJob:
        error = self._error(text)
        job = loads((text if error is None else cut(text, 1)).decode())
        return LargeJob(job, answer_bytes, error)

    def _error(self, text: bytes) -> InputTooLarge | None:
        try:
            if self._limits is not None:
                self._limits.check_text(text, SUBMISSION_FACTOR)
        except InputTooLarge as error:
            return error
        return None


def _marked(item: Any, answer_bytes: int) -> Any:
    return LargeJob(item, answer_bytes) if isinstance(item, dict) else item


def _jobs(text: bytes) -> Iterator[bytes]:
    """Yield the text of the object, or of each object in the list."""
    depth = 0 if text.lstrip().startswith(b"{") else 1
    yield from (text[start:stop] for start, stop in spans(text, depth) if text[start] == ord("{"))
