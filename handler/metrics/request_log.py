"""The record of one request, for its log line and the metrics.

The log has no prompts or completions unless LOG_CONTENT is set.
"""

import logging
import re
import time
from typing import Literal

from handler.engine.call.usage import Usage, UsageCounter
from handler.errors import ClientDisconnected, RequestError
from handler.metrics.cost import CostMeter, CostShare

log = logging.getLogger(__name__)

Outcome = Literal["ok", "refused", "failed", "timeout", "cancelled", "rejected"]
"""refused: invalid request. failed: an error of the worker or engine. rejected: queue full."""
EVENT_NAME = re.compile(rb"^event: ?(\S+)", re.MULTILINE)
# The first events of /v1/responses, which come before any output.
HEAD_EVENTS = frozenset({b"response.created", b"response.queued", b"response.in_progress"})
DONE = b"data: [DONE]"
CANCELLED = 499  # nginx's status for a client that disconnected; in the log only
UNKNOWN_ROUTE = "?"
MAX_CONTENT_CHARACTERS = 20_000


class RequestRecord:
    """One request; times are seconds on the monotonic clock.

    Args:
        request_id: the id of the job or of the HTTP request.
        log_content: whether prompt and completion go to the log.
        cost: divides the worker's price among the requests, None for a job without metrics.

    Attributes:
        route: the engine's path, or "?" if there is none.
        status: the HTTP status; CANCELLED while the request runs.
        streams: whether the response is a stream.
        began_at: arrival of the request.
        engine_at: when the request was sent to the engine.
        first_output_at: first output of the engine.
        ended_at: end of the request.
        dollars: its share of the worker's price, from `engine_at` to its end; None before, and
            where the price is not known.
    """

    def __init__(
        self, request_id: str, log_content: bool = False, cost: CostMeter | None = None
    ) -> None:
        self.id = request_id
        self.route = UNKNOWN_ROUTE
        self.status = CANCELLED
        self.streams = False
        self.began_at = time.monotonic()
        self.engine_at: float | None = None
        self.first_output_at: float | None = None
        self.ended_at: float | None = None
        self.dollars: float | None = None
        self._cost = cost
        self._share: CostShare | None = None
        self._usage = UsageCounter()
        self._log_content = log_content
        self._prompt = b""
        self._completion: list[bytes] = []

    def sent(self, route: str, body: bytes) -> None:
        """Record that the request is sent to the engine."""
        self.route, self.engine_at = route, time.monotonic()
        if self._cost is not None and self._share is None:
            self._share = self._cost.begin()
        if self._log_content:
            self._prompt = body

    def add_output(self, data: bytes) -> None:
        """Record output of the engine: whole events, or a whole body."""
        if not data:
            return
        if self.first_output_at is None and not _is_head(data):
            self.first_output_at = time.monotonic()
        if self.streams and DONE in data:
            self.status = 200  # a client may disconnect after this, before the response ends
        self._usage.add(data)
        if self._log_content:
            self._completion.append(data)

    def failed(self, error: BaseException) -> None:
        if isinstance(error, ClientDisconnected):
            self.status = CANCELLED
        else:
            self.status = error.status if isinstance(error, RequestError) else RequestError.status

    def finish(self) -> None:
        """Record the end of the request and write its log line."""
        self.ended_at = time.monotonic()
        if self._share is not None:
            self.dollars = self._share.end()
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
        if self.dollars is not None:
            fields["dollars"] = round(self.dollars, 9)
        route = "unknown route" if self.route == UNKNOWN_ROUTE else self.route
        text = f"{route} {self.status} {self.outcome}"
        if usage.prompt or usage.completion:
            text += f", {usage.prompt} tokens in ({usage.cached} cached), {usage.completion} out"
        if first is not None:
            text += f", first token {first:.3f} s"
        text += f", {self.seconds:.2f} s"
        if self.dollars is not None:
            text += f", ${self.dollars:.6f}"
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
        """From the arrival to the end, or until now."""
        return (self.ended_at or time.monotonic()) - self.began_at

    @property
    def queue_seconds(self) -> float | None:
        """From the arrival until the request was sent to the engine."""
        return None if self.engine_at is None else self.engine_at - self.began_at

    @property
    def time_to_first_token_seconds(self) -> float | None:
        """From the arrival to the first output of a stream; None for other responses."""
        if self.first_output_at is None or not self.streams:
            return None
        return self.first_output_at - self.began_at

    @property
    def inter_token_latency_seconds(self) -> float | None:
        """Average time between two tokens of a stream."""
        tokens = self.usage.completion
        if self.first_output_at is None or self.ended_at is None or tokens < 2 or not self.streams:
            return None
        return (self.ended_at - self.first_output_at) / (tokens - 1)


class RequestObserver:
    """The observer of requests; this base class does nothing."""

    def began(self, record: RequestRecord) -> None:
        """Called when a request arrives."""

    def ended(self, record: RequestRecord) -> None:
        """Called when a request has ended."""


def _is_head(data: bytes) -> bool:
    """Whether `data` has only HEAD_EVENTS; an engine never splits them."""
    names = EVENT_NAME.findall(data)
    return bool(names) and all(name in HEAD_EVENTS for name in names)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")[:MAX_CONTENT_CHARACTERS]
