"""A bound on log lines that repeat.

Lines are the same if they differ only in words with a digit: numbers, job ids, addresses. The next
line that is let through says how many were left out.
"""

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

WINDOW_SECONDS = 60.0
MAX_SAME_LINES = 3  # in one window
MAX_KEYS = 500
MAX_KEY_CHARACTERS = 300
_WORD_WITH_DIGIT = re.compile(r"[^\s\d]*\d\S*")


class RepeatedLines:
    """Counts lines by their text.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: OrderedDict[str, _Line] = OrderedDict()

    def admit(self, text: str) -> str | None:
        """Return the line to print, or None to leave it out."""
        key = _WORD_WITH_DIGIT.sub("0", text[:MAX_KEY_CHARACTERS])
        line = self._lines.pop(key, None) or _Line(self._clock())
        self._lines[key] = line
        if len(self._lines) > MAX_KEYS:
            self._lines.popitem(last=False)
        left_out = 0
        if self._clock() - line.began >= WINDOW_SECONDS:
            left_out = line.seen - MAX_SAME_LINES
            line.began, line.seen = self._clock(), 0
        line.seen += 1
        if line.seen > MAX_SAME_LINES:
            return None
        return f"{text} (repeated {left_out} times)" if left_out > 0 else text


class _Line:
    def __init__(self, began: float) -> None:
        self.began, self.seen = began, 0


class RepeatedLinesFilter(logging.Filter):
    """Bounds the warnings and errors of a logger."""

    def __init__(self, lines: RepeatedLines) -> None:
        super().__init__()
        self._lines = lines

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        text = record.getMessage()
        line = self._lines.admit(text)
        if line is None:
            return False
        if line != text:
            record.msg, record.args = line, ()
        return True


def bound_sdk_log(logger_class: Any, lines: RepeatedLines) -> None:
    """Bound the warnings and errors of the SDK's own logger, which prints without `logging`."""
    log_line = logger_class.log

    def log(self: Any, message: object, message_level: str = "INFO", job_id: Any = None) -> None:
        if message_level in ("WARN", "ERROR"):
            admitted = lines.admit(f"{message}")
            if admitted is None:
                return
            message = admitted
        log_line(self, message, message_level, job_id)

    logger_class.log = log
