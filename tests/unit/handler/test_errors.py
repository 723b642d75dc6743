"""Every error becomes one JSON string, and nothing of this machine gets out in it."""

import json

import pytest

from handler.errors import (
    EngineError,
    EngineUnavailable,
    InvalidInput,
    RequestTimedOut,
    UnknownRoute,
    hide_secrets,
    one_line,
    redact,
    render,
)


def error_of(error):
    return json.loads(render(error))["error"]


def test_our_own_errors_carry_their_status_and_field():
    """The OpenAI error object has four members."""
    assert error_of(InvalidInput("no such thing", "top_k")) == {
        "message": "no such thing",
        "type": "BadRequestError",
        "param": "top_k",
        "code": 400,
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [(UnknownRoute("x"), 404), (RequestTimedOut("x"), 408), (EngineUnavailable("x"), 503)],
    ids=["404", "408", "503"],
)
def test_each_kind_has_its_code(error, code):
    """Callers tell them apart by the code."""
    assert error_of(error)["code"] == code


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"error": {"message": "too long", "type": "BadRequestError", "param": "n"}}, "too long"),
        ({"message": "too long", "type": "BadRequestError", "param": "n"}, "too long"),
        ({"detail": "Method Not Allowed"}, "Method Not Allowed"),
        ("plain text", "plain text"),
    ],
    ids=["openai", "flat", "fastapi", "text"],
)
def test_the_engine_error_is_handed_on_in_any_of_its_shapes(payload, message):
    """Engines spell their errors in several ways; callers see one."""
    error = error_of(EngineError(400, payload))
    assert (error["message"], error["type"], error["code"]) == (message, "BadRequestError", 400)


@pytest.mark.parametrize(("param", "shown"), [(None, None), (7, "7"), ({"a": 1}, "{'a': 1}")])
def test_a_field_that_is_no_text_is_shown_as_one(param, shown):
    """Whatever an engine says."""
    refused = EngineError(400, {"error": {"message": "no", "param": param}})
    assert error_of(refused)["param"] == shown


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidInput("no", "messages"), "invalid_request_error"),
        (UnknownRoute("no"), "not_found_error"),
        (EngineError(422, {"message": "no"}), "invalid_request_error"),
        (EngineError(502, {"message": "no"}), "api_error"),
        (EngineUnavailable("no"), "overloaded_error"),
    ],
)
def test_anthropics_clients_get_their_own_object(error, kind):
    """Its type is by the status."""
    shown = json.loads(render(error, for_anthropic=True))
    assert shown == {"type": "error", "error": {"type": kind, "message": "no"}}


def test_one_kind_of_error_has_one_name():
    """vLLM has two for it."""
    assert error_of(EngineError(400, {"type": "Bad Request"}))["type"] == "BadRequestError"


def test_what_the_caller_sent_cannot_break_or_swell_the_error():
    """The SDK cannot send half a surrogate pair, and nobody reads megabytes."""
    text = render(InvalidInput("no \ud83e " + "x" * 1_000_000, "\ud83e" * 1_000_000))
    assert text.encode().decode() == text
    assert len(text) < 5_000


def test_an_unforeseen_error_says_nothing_of_its_inside(caplog):
    """The caller gets one sentence, the log gets the traceback."""
    text = render(KeyError("/srv/secret/place"))
    assert json.loads(text)["error"] == {
        "message": "The worker failed on this request; see its log for the cause.",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }
    assert "/srv/secret/place" in caplog.text


def test_paths_and_secrets_are_taken_out_of_server_errors():
    """An engine's internal error may name files; a token must not leave under any code."""
    hide_secrets(["hf_abc"])
    refused = EngineError(500, {"message": "cannot open /opt/venv/lib/x.py with hf_abc"})
    assert error_of(refused)["message"] == "cannot open [path] with ***"
    assert error_of(InvalidInput("hf_abc on /v1/models"))["message"] == "*** on /v1/models"


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


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no\n  such value\nFor further information visit https://x", "no such value"),
        (
            "Model architectures ['Foo'] are not supported for now. Supported architectures: "
            "dict_keys(['A', 'B'])",
            "Model architectures ['Foo'] are not supported for now.",
        ),
        (
            "To allow overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1. "
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN must be used with extreme caution: a CUDA error.",
            "To allow overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1.",
        ),
        (
            "context_length (9) is too long. This may lead to incorrect model outputs or CUDA "
            "errors. Note that it differs.",
            "context_length (9) is too long. Note that it differs.",
        ),
    ],
    ids=["pydantic", "architectures", "vLLM's length", "SGLang's length"],
)
def test_an_engines_message_is_one_line_of_its_cause(text, line):
    """Without a word of CUDA, which would make it a failure of the host."""
    assert one_line(text) == line
