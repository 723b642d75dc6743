"""Logging on stdout: one line per event, as text or JSON, with the current job's id."""

import contextvars
import datetime
import json
import logging
import sys
from typing import Literal

from handler.errors import redact

job_id: contextvars.ContextVar[str] = contextvars.ContextVar("job_id", default="")


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(job)s%(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        job = job_id.get()
        record.job = f"[{job}] " if job else ""
        return redact(super().format(record))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        event = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if job := job_id.get():
            event["requestId"] = job
        event |= getattr(record, "fields", {})
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(event, ensure_ascii=False))


def pluralize(number: int, noun: str) -> str:
    """Return "1 job", "2 jobs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def configure_logging(level: str, log_format: Literal["text", "json"]) -> None:
    """Send the log of the `handler` package to stdout; the engine configures its own logging."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logger = logging.getLogger("handler")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level)
