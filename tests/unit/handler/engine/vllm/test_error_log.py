"""What is logged of the tracebacks when vLLM's engine core dies."""

import logging

import pytest

from handler.engine.vllm.error_log import OneTraceback

STREAM = "Error in chat completion stream generator."


class EngineDeadError(Exception):
    """Stands for vLLM's."""


class EngineGenerateError(Exception):
    """Stands for vLLM's, which it raises from an error that is not the core's death."""


@pytest.fixture
def logged():
    """A logger as vLLM's modules have, and the messages that its handler writes."""
    messages = []

    class Handler(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    handler = Handler()
    handler.addFilter(OneTraceback(EngineDeadError))
    logger = logging.getLogger("vllm of the test")
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, messages
    logger.removeHandler(handler)


def log_as(logger, text, error, cause=None):
    try:
        raise error from cause
    except Exception:
        logger.exception(text)


def output_handler(logger, error):
    """As `AsyncLLM` logs what ends its task."""
    try:
        raise error
    except Exception:
        logger.exception("AsyncLLM output_handler failed.")


def test_the_death_of_the_core_is_logged_once(logged):
    """The running requests share its exception, later ones have their own."""
    logger, messages = logged
    shared = EngineDeadError()
    output_handler(logger, shared)
    for error in (shared, shared, EngineDeadError()):
        log_as(logger, STREAM, error)
    log_as(logger, "Error in create_messages", EngineGenerateError(), EngineDeadError())
    assert messages == ["AsyncLLM output_handler failed."]


def test_a_request_that_meets_the_death_first_logs_it(logged):
    logger, messages = logged
    log_as(logger, STREAM, EngineDeadError())
    output_handler(logger, EngineDeadError())
    assert messages == [STREAM]


def test_another_error_of_the_output_handler_is_logged_once(logged):
    """It fails all requests too; each raises an exception of its own from it."""
    logger, messages = logged
    shared = ValueError("planned")
    output_handler(logger, shared)
    for _ in range(3):
        log_as(logger, STREAM, EngineGenerateError(), shared)
    assert messages == ["AsyncLLM output_handler failed."]


def test_other_lines_are_logged(logged):
    """Errors of single requests, also after the death, and lines without one."""
    logger, messages = logged
    log_as(logger, "before", EngineGenerateError(), ValueError("planned"))
    output_handler(logger, EngineDeadError())
    log_as(logger, "after", ValueError("planned"))
    logger.error("no traceback")
    assert messages == ["before", "AsyncLLM output_handler failed.", "after", "no traceback"]
