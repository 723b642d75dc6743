"""What one request did, from its arrival to its end: a line in the log, and the metrics.

No text of a prompt or an answer is in it, unless LOG_CONTENT says so.
"""

import logging
import re
import time
from typing import Literal

from handler.engine.usage import Usage, UsageCounter
from handler.errors import ClientDisconnected, RequestError

log = logging.getLogger(__name__)

Outcome = Literal["ok", "refused", "failed", "timeout", "cancelled", "rejected"]
"""refused: the caller's error. failed: ours or the engine's. rejected: too many wait."""
EVENT = re.compile(rb"^event: ?(\S+)", re.MULTILINE)
HEAD = frozenset({b"response.created", b"response.queued", b"response.in_progress"})
CANCELLED = 499  # nobody reads on; a status that only the log has
LONGEST_CONTENT_CHARACTERS = 20_000


class RequestRecord:
    """One request; times are seconds on the monotonic clock.

    Args:
        id: the job's, or the request's.
        log_content: whether the texts go to the log as well.

    Attributes:
        route: the engine's path, or "?" for what is none.
        status: the HTTP status that it has come to.
        began_at: when it arrived.
        engine_at: when it was handed to the engine.
        first_at: when the first of its output was there.
        ended_at: when it was over.
        yields: the pieces in which its output left.
    """

    def __init__(self, id: str, log_content: bool = False) -> None:
        self.id = id
        self.route = "?"
        self.status = CANCELLED
        self.streams = False
        self.began_at = time.monotonic()
        self.engine_at: float | None = None
        self.first_at: float | None = None
        self.ended_at: float | None = None
        self.yields = 0
        self._counter = UsageCounter()
        self._log_content = log_content
        self._asked = b""
        self._answered: list[bytes] = []

    def sent(self, route: str, body: bytes) -> None:
        """It is handed to the engine."""
        self.route, self.engine_at = route, time.monotonic()
        if self._log_content:
            self._asked = body

    def answered(self, data: bytes) -> None:
        """The engine has answered this."""
        if not data:
            return
        if self.first_at is None and not _is_head(data):
            self.first_at = time.monotonic()
        self._counter.add(data)
        if self._log_content:
            self._answered.append(data)

    def failed(self, error: BaseException) -> None:
        """It ends with this error."""
        if isinstance(error, ClientDisconnected):
            self.status = CANCELLED
        else:
            self.status = error.status if isinstance(error, RequestError) else RequestError.status

    def end(self) -> None:
        """It is over: say so in the log."""
        self.ended_at = time.monotonic()
        usage, first = self.usage, self.first_token_seconds
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
        if self._log_content:
            fields |= {"asked": _text(self._asked), "answered": _text(b"".join(self._answered))}
        shown = "" if first is None else f", first token {first:.3f} s"
        log.info(
            "%s %d %s, %d tokens in (%d cached), %d out%s, %.2f s%s",
            *(self.route, self.status, self.outcome, usage.prompt, usage.cached, usage.completion),
            *(shown, self.seconds),
            f": {fields['asked']} → {fields['answered']}" if self._log_content else "",
            extra={"fields": fields},
        )

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        match self.status:
            case 408:
                return "timeout"
            case 429:
                return "rejected"
            case 499:
                return "cancelled"
            case status if status >= 500:
                return "failed"
            case status if status >= 400:
                return "refused"
        return "ok"

    @property
    def usage(self) -> Usage:
        """Its tokens."""
        return self._counter.usage

    @property
    def seconds(self) -> float:
        """From its arrival to its end, or to now."""
        return (self.ended_at or time.monotonic()) - self.began_at

    @property
    def queue_seconds(self) -> float | None:
        """From its arrival to the engine."""
        return None if self.engine_at is None else self.engine_at - self.began_at

    @property
    def first_token_seconds(self) -> float | None:
        """From its arrival to the first of its output, of a stream."""
        if self.first_at is None or not self.streams:
            return None
        return self.first_at - self.began_at

    @property
    def inter_token_seconds(self) -> float | None:
        """On average between two tokens of its stream."""
        tokens = self.usage.completion
        if self.first_at is None or self.ended_at is None or tokens < 2 or not self.streams:
            return None
        return (self.ended_at - self.first_at) / (tokens - 1)


class RequestObserver:
    """Sees the requests go by; this one lets them."""

    def began(self, record: RequestRecord) -> None:
        """A request has arrived."""

    def ended(self, record: RequestRecord) -> None:
        """A request is over."""


def _is_head(data: bytes) -> bool:
    """Whether these are only the events with which /v1/responses begins before it is computed.

    An engine sends each of them whole.
    """
    names = EVENT.findall(data)
    return bool(names) and all(name in HEAD for name in names)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")[:LONGEST_CONTENT_CHARACTERS]
