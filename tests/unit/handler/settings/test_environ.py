"""Variables as they are meant, and what is exported to libraries and child processes."""

import os

import pytest

from handler.engine.flags.aliases import flag_rules
from handler.errors import InvalidSetting
from handler.settings.environ import (
    clean_environ,
    export,
    export_unquoted,
    load_settings,
    log_level_of,
    setting_rules,
)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"TOKENIZER_NAME": "None"}, "TOKENIZER_NAME='None' (the word for no value)"),
        ({"MODEL_NAME": '"null"'}, "MODEL_NAME='null' (the word for no value)"),
        ({"QUANTIZATION": "None"}, "QUANTIZATION='None' (the word for no value)"),
        ({"REQUEST_TIMEOUT": "0"}, "REQUEST_TIMEOUT='0' (must be above zero)"),
        ({"SPEC_TOKENS": "0.0"}, "SPEC_TOKENS='0.0' (must be above zero)"),
        ({"MAX_CONCURRENCY": "0"}, "MAX_CONCURRENCY='0' (must be above zero)"),
        ({"PORT": "0"}, "PORT='0' (must be above zero)"),
        ({"MAX_NUM_BATCHED_TOKENS": "0"}, "MAX_NUM_BATCHED_TOKENS='0' (must be above zero)"),
        ({"GPU_MEMORY_UTILIZATION": "0"}, "GPU_MEMORY_UTILIZATION='0' (must be above zero)"),
        ({"MEM_FRACTION_STATIC": "0.00"}, "MEM_FRACTION_STATIC='0.00' (must be above zero)"),
        ({"MAX_LORA_RANK": "0"}, "MAX_LORA_RANK='0' (must be above zero)"),
        ({"GRAMMAR_BACKEND": "None"}, "GRAMMAR_BACKEND='None' (the word for no value)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_means_not_set_is_left_out_and_listed(given, line):
    cleaned = clean_environ(given, setting_rules(), flag_rules())
    assert cleaned == ({}, [line])
    assert load_settings(given) == load_settings({})


@pytest.mark.parametrize(
    "given",
    [
        {"QUANTIZATION": "none"},
        {"SPECULATIVE_METHOD": "none"},
        {"CORS_ORIGINS": "null"},
        {"CONVERT": "none"},
        {"GRAMMAR_BACKEND": "none"},
        {"MAX_QUEUE": "0"},
        {"SEED": "0"},
        {"CPU_OFFLOAD_GB": "0"},
        {"MAX_LOGPROBS": "0"},
        {"PS1": "None"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_word_or_a_zero_that_has_a_meaning_stays(given):
    """As does a variable of another program."""
    assert clean_environ(given, setting_rules(), flag_rules()) == (given, [])


def test_an_error_shows_the_value_as_it_was_given():
    with pytest.raises(InvalidSetting) as caught:
        load_settings({"REQUEST_TIMEOUT": "'soon'"})
    assert str(caught.value) == """REQUEST_TIMEOUT="'soon'" must be a valid number."""


@pytest.mark.parametrize(
    ("value", "level"),
    [("warn", "WARNING"), ("'TRACE'", "DEBUG"), ("20", "INFO"), ("", "ERROR"), (None, "ERROR")],
)
def test_the_engines_own_log_level_is_one_that_it_knows(value, level):
    environ = {} if value is None else {"VLLM_LOGGING_LEVEL": value}
    assert log_level_of(environ, "VLLM_LOGGING_LEVEL", "ERROR") == level
    with pytest.raises(InvalidSetting) as caught:
        log_level_of({"VLLM_LOGGING_LEVEL": "loud"}, "VLLM_LOGGING_LEVEL", "ERROR")
    assert str(caught.value) == (
        "VLLM_LOGGING_LEVEL='loud' must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL."
    )


def test_quotes_of_an_env_file_do_not_reach_libraries(monkeypatch):
    given = {"VLLM_LOGGING_LEVEL": '"DEBUG"', "HF_TOKEN": "'hf_x'", "HF_HOME": "/a", "PS1": '"$"'}
    monkeypatch.setattr(os, "environ", dict(given))
    export_unquoted(given, clean_environ(given).variables)
    assert os.environ == given | {"VLLM_LOGGING_LEVEL": "DEBUG", "HF_TOKEN": "hf_x"}


def test_defaults_are_exported_and_do_not_replace_what_the_user_set(monkeypatch):
    """Names to remove go, whoever set them."""
    monkeypatch.setenv("FROM_USER", "user")
    monkeypatch.setenv("API_KEY_OF_ENGINE", "key")
    monkeypatch.delenv("NEW_DEFAULT", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    export({"FROM_USER": "default", "NEW_DEFAULT": "1"}, remove=["API_KEY_OF_ENGINE", "NOT_SET"])
    assert (os.environ["FROM_USER"], os.environ["NEW_DEFAULT"]) == ("user", "1")
    assert "API_KEY_OF_ENGINE" not in os.environ


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"TOKENIZER_NAME": "org/a", "TOKENIZER": "org/b"}, "TOKENIZER_NAME and TOKENIZER"),
        ({"ENGINE_ARGS": "--a", "VLLM_EXTRA_ARGS": "--b"}, "ENGINE_ARGS and VLLM_EXTRA_ARGS"),
        ({"HF_TOKEN": "a", "HUGGING_FACE_HUB_TOKEN": "b"}, "HF_TOKEN and HUGGING_FACE_HUB_TOKEN"),
    ],
    ids=["tokenizer", "flags", "token"],
)
def test_two_names_of_one_setting_with_two_values_are_an_error(environ, names):
    """Neither is dropped in silence; the same value twice is right."""
    with pytest.raises(InvalidSetting) as caught:
        load_settings(environ)
    assert str(caught.value) == f"{names} are one setting with two values: remove one."
    load_settings(dict.fromkeys(environ, "org/a"))


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"ENGINE": "SGLang"}, "engine", "sglang"),
        ({"SERVE_MODE": "HTTP"}, "serve_mode", "http"),
        ({"MAX_CONCURRENCY": "AUTO"}, "max_concurrency", "auto"),
        ({"LOG_FORMAT": "JSON"}, "log_format", "json"),
        ({"PLAYGROUND": "Disabled"}, "playground", False),
        ({"LOG_CONTENT": "y"}, "log_content", True),
        ({"REQUEST_TIMEOUT": "600 # ten minutes"}, "request_timeout_seconds", 600.0),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_words_are_read_in_any_case_and_switches_in_the_usual_words(environ, field, value):
    assert getattr(load_settings(environ), field) == value


@pytest.mark.parametrize(
    ("environ", "right"),
    [
        ({"LOG_CONTENT": "maybe"}, "true or false"),
        ({"DRAIN_TIMEOUT": "inf"}, "a finite number"),
        ({"ENGINE": "tgi"}, "'vllm' or 'sglang'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_word_is_an_error_with_what_is_right(environ, right):
    with pytest.raises(InvalidSetting) as caught:
        load_settings(environ)
    [(name, value)] = environ.items()
    assert str(caught.value) == f"{name}={value!r} must be {right}."
