"""One request from its arrival to its end: a line in the log, and what the metrics count.

Prompts and completions are left out unless LOG_CONTENT is set.
"""

import logging
import re
import time
from typing import Literal

from handler.engine.usage import Usage, UsageCounter
from handler.errors import ClientDisconnected, RequestError

log = logging.getLogger(__name__)

Outcome = Literal["ok", "refused", "failed", "timeout", "cancelled", "rejected"]
"""refused: the caller's error. failed: ours or the engine's. rejected: the queue is full."""
EVENT_NAME = re.compile(rb"^event: ?(\S+)", re.MULTILINE)
# The events with which /v1/responses begins before anything is computed.
HEAD_EVENTS = frozenset({b"response.created", b"response.queued", b"response.in_progress"})
DONE = b"data: [DONE]"
CANCELLED = 499  # the client has left; nginx's status, which only the log has
UNKNOWN_ROUTE = "?"
MAX_CONTENT_CHARACTERS = 20_000


class RequestRecord:
    """One request; times are seconds on the monotonic clock.

    Args:
        request_id: the job's id, or the request's.
        log_content: whether prompt and completion go to the log.

    Attributes:
        route: the engine's path, or "?" if there is none.
        status: the HTTP status it has come to; CANCELLED until then.
        streams: whether the response is a stream.
        began_at: when the request arrived.
        engine_at: when it was sent to the engine.
        first_output_at: when the first output arrived from the engine.
        ended_at: when it was over.
    """

    def __init__(self, request_id: str, log_content: bool = False) -> None:
        self.id = request_id
        self.route = UNKNOWN_ROUTE
        self.status = CANCELLED
        self.streams = False
        self.began_at = time.monotonic()
        self.engine_at: float | None = None
        self.first_output_at: float | None = None
        self.ended_at: float | None = None
        self._usage = UsageCounter()
        self._log_content = log_content
        self._prompt = b""
        self._completion: list[bytes] = []

    def sent(self, route: str, body: bytes) -> None:
        """The request is sent to the engine."""
        self.route, self.engine_at = route, time.monotonic()
        if self._log_content:
            self._prompt = body

    def add_output(self, data: bytes) -> None:
        """The engine has sent `data`: whole events, or a whole body."""
        if not data:
            return
        if self.first_output_at is None and not _is_head(data):
            self.first_output_at = time.monotonic()
        if self.streams and DONE in data:
            self.status = 200  # a client that has this may leave before the response's end
        self._usage.add(data)
        if self._log_content:
            self._completion.append(data)

    def failed(self, error: BaseException) -> None:
        if isinstance(error, ClientDisconnected):
            self.status = CANCELLED
        else:
            self.status = error.status if isinstance(error, RequestError) else RequestError.status

    def finish(self) -> None:
        """The request is over: write its line to the log."""
        self.ended_at = time.monotonic()
        usage, first = self.usage, self.time_to_first_token_seconds
        fields = {
            "route": self.route,
            "outcome": self.outcome,
            "status": self.status,
            "promptTokens": usage.prompt,
            "completionTokens": usage.completion,
            "cachedTokens": usage.cached,
            "firstTokenSeconds": None if first is None else round(first, 4),
            "seconds": round(self.seconds, 4),
        }
        route = "unknown route" if self.route == UNKNOWN_ROUTE else self.route
        text = f"{route} {self.status} {self.outcome}"
        if usage.prompt or usage.completion:
            text += f", {usage.prompt} tokens in ({usage.cached} cached), {usage.completion} out"
        if first is not None:
            text += f", first token {first:.3f} s"
        text += f", {self.seconds:.2f} s"
        if self._log_content:
            asked, answered = _text(self._prompt), _text(b"".join(self._completion))
            fields |= {"asked": asked, "answered": answered}
            text += f": {asked} → {answered}"
        log.info("%s", text, extra={"fields": fields})

    @property
    def outcome(self) -> Outcome:
        named: dict[int, Outcome] = {408: "timeout", 429: "rejected", CANCELLED: "cancelled"}
        if self.status in named:
            return named[self.status]
        if self.status >= 500:
            return "failed"
        return "refused" if self.status >= 400 else "ok"

    @property
    def usage(self) -> Usage:
        return self._usage.usage

    @property
    def seconds(self) -> float:
        """From the arrival to the end, or to now."""
        return (self.ended_at or time.monotonic()) - self.began_at

    @property
    def queue_seconds(self) -> float | None:
        """From the arrival until it was sent to the engine."""
        return None if self.engine_at is None else self.engine_at - self.began_at

    @property
    def time_to_first_token_seconds(self) -> float | None:
        """From the arrival to the first output of a stream."""
        if self.first_output_at is None or not self.streams:
            return None
        return self.first_output_at - self.began_at

    @property
    def inter_token_latency_seconds(self) -> float | None:
        """Between two tokens of a stream, on average."""
        tokens = self.usage.completion
        if self.first_output_at is None or self.ended_at is None or tokens < 2 or not self.streams:
            return None
        return (self.ended_at - self.first_output_at) / (tokens - 1)


class RequestObserver:
    """Notified of each request; this one does nothing."""

    def began(self, record: RequestRecord) -> None:
        """A request has arrived."""

    def ended(self, record: RequestRecord) -> None:
        """A request is over."""


def _is_head(data: bytes) -> bool:
    """Whether all events are HEAD_EVENTS; an engine sends each of them whole."""
    names = EVENT_NAME.findall(data)
    return bool(names) and all(name in HEAD_EVENTS for name in names)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")[:MAX_CONTENT_CHARACTERS]
