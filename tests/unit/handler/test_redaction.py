"""What is hidden in texts that leave the worker."""

import logging

import pytest

from handler.logs import configure_logging
from handler.redaction import redact


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("X='http://me:word@host:9091/a'", "X='http://***@host:9091/a'"),
        ("http://me:w@rd@host", "http://***@host"),
        ("redis://:word@host/0 and s3://key@host", "redis://***@host/0 and s3://***@host"),
        ("http://host/a@b, me@host", "http://host/a@b, me@host"),
        ("http://host", "http://host"),
    ],
    ids=["quoted", "an @ in the password", "two", "no user", "no @"],
)
def test_the_user_and_password_of_a_url_are_hidden(text, redacted):
    assert redact(text) == redacted


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_lines_are_redacted(capsys, log_format):
    logger = logging.getLogger("handler")
    before = logger.handlers, logger.propagate, logger.level
    try:
        configure_logging("INFO", log_format)
        logger.info("asking %s", "http://me:word@host")
    finally:
        logger.handlers, logger.propagate, logger.level = before
    printed = capsys.readouterr().out
    assert "asking http://***@host" in printed
    assert "word" not in printed
