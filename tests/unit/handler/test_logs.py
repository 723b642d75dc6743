"""The log: one line per event, with the job's id during a job."""

import json
import logging

import pytest

from handler.logs import configure_logging, job_id, pluralize


@pytest.fixture
def log():
    logger = logging.getLogger("handler")
    before = logger.handlers, logger.propagate, logger.level
    yield logging.getLogger("handler.test")
    logger.handlers, logger.propagate, logger.level = before


def test_json_lines_have_the_jobs_id_and_the_traceback(log, capsys):
    configure_logging("INFO", "json")
    token = job_id.set("j1")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it is %s", "bad")
    finally:
        job_id.reset(token)
    event = json.loads(capsys.readouterr().out)
    # Runpod's log search looks for requestId.
    assert (event["level"], event["message"], event["requestId"]) == ("ERROR", "it is bad", "j1")
    assert event["exception"].endswith("ValueError: broken")


def test_text_lines_have_time_level_and_message_from_the_level_on(log, capsys):
    configure_logging("WARNING", "text")
    log.info("not shown")
    log.warning("shown")
    assert capsys.readouterr().out[8:] == " WARNING shown\n"


def test_one_thing_has_no_plural_s():
    assert [pluralize(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


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
