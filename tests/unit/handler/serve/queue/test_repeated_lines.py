"""A bound on lines that repeat, of the worker's log and of the SDK's."""

import logging
import uuid

from handler.serve.queue.repeated_lines import (
    MAX_KEYS,
    RepeatedLines,
    RepeatedLinesFilter,
    bound_sdk_log,
)


def test_a_line_is_printed_three_times_a_minute_and_then_with_a_count():
    """Lines that differ in numbers only are the same."""
    now = [0.0]
    lines = RepeatedLines(lambda: now[0])
    assert [lines.admit(f"failed in {n} s") for n in range(100)] == [
        "failed in 0 s",
        "failed in 1 s",
        "failed in 2 s",
        *[None] * 97,
    ]
    assert lines.admit("another") == "another"
    now[0] = 60.0
    assert lines.admit("failed in 7 s") == "failed in 7 s (repeated 97 times)"
    now[0] = 120.0
    assert lines.admit("failed in 8 s") == "failed in 8 s"


def test_lines_that_differ_in_a_job_id_are_the_same():
    lines = RepeatedLines()
    ids = [f"{uuid.uuid4()}-u1" for _ in range(1000)]
    texts = [f"refused a job of the platform: {each} is running already" for each in ids]
    assert [lines.admit(text) for text in texts] == texts[:3] + [None] * 997
    assert lines.admit("refused a job of the platform: it has no id") is not None


def test_the_memory_of_lines_is_bounded():
    lines = RepeatedLines()
    for number in range(2 * MAX_KEYS):
        assert lines.admit("x" * (number % 100) + "y" * (number // 100)) is not None
    assert len(lines._lines) == MAX_KEYS


def test_warnings_are_bounded_and_the_line_of_a_job_is_not(caplog):
    log = logging.getLogger("test_repeated_lines")
    log.addFilter(RepeatedLinesFilter(RepeatedLines()))
    with caplog.at_level("INFO", log.name):
        for number in range(9):
            log.warning("no answer in %d s", number)
            log.info("job %d", number)
    assert [record.levelname for record in caplog.records].count("WARNING") == 3
    assert [record.levelname for record in caplog.records].count("INFO") == 9


def test_the_sdks_errors_are_bounded():
    printed = []

    class Logger:
        def log(self, message, message_level="INFO", job_id=None):
            printed.append((message, message_level, job_id))

    bound_sdk_log(Logger, RepeatedLines())
    for number in range(9):
        Logger().log("Session is closed", "ERROR", f"job {number}")
        Logger().log("Finished.", "INFO", "job")
    assert printed.count(("Finished.", "INFO", "job")) == 9
    assert [message for message, level, _ in printed if level == "ERROR"] == [
        "Session is closed"
    ] * 3
