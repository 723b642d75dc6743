"""The log is one line per event, with the job's id where there is one."""

import json
import logging

import pytest

from handler.environ import load
from handler.logs import configure, job_id


@pytest.fixture
def log():
    logger = logging.getLogger("handler")
    before = logger.handlers, logger.propagate, logger.level
    yield logging.getLogger("handler.test")
    logger.handlers, logger.propagate, logger.level = before


def test_json_lines_carry_the_job_and_the_traceback(log, capsys):
    """Runpod's log search finds them by requestId."""
    configure(load({"LOG_FORMAT": "json"}))
    token = job_id.set("j1")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it is %s", "bad")
    finally:
        job_id.reset(token)
    event = json.loads(capsys.readouterr().out)
    assert (event["level"], event["message"], event["requestId"]) == ("ERROR", "it is bad", "j1")
    assert event["exception"].endswith("ValueError: broken")


def test_text_lines_are_short_and_the_level_counts(log, capsys):
    """Time, level, job, message."""
    configure(load({"LOG_LEVEL": "warning"}))
    log.info("not shown")
    log.warning("shown")
    assert capsys.readouterr().out[8:] == " WARNING shown\n"
