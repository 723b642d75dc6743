"""Settings from an environment, and the errors of invalid ones."""

import pytest

from handler.errors import InvalidSetting
from handler.settings.environ import load_settings, setting_variables
from handler.settings.fields import Settings


def test_every_setting_has_a_default():
    settings = load_settings({})
    assert (settings.engine, settings.max_concurrency, settings.drain_timeout_seconds) == (
        "vllm",
        "auto",
        30.0,
    )
    assert settings.job_url is None


def test_names_of_worker_vllm_are_read():
    settings = load_settings(
        {"OPENAI_SERVED_MODEL_NAME_OVERRIDE": "mine", "VLLM_EXTRA_ARGS": "--enforce-eager"}
    )
    assert (settings.served_model_name, settings.engine_args) == ("mine", "--enforce-eager")


def test_an_empty_value_is_the_default():
    assert load_settings(
        {"MAX_CONCURRENCY": "", "REQUEST_TIMEOUT": " ", "LOG_LEVEL": "info "}
    ) == load_settings({})


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [
        ("MAX_CONCURRENCY", "many", "'auto' or a valid integer"),
        ("MAX_CONCURRENCY", "-1", "'auto' or greater than 0"),
        ("ENGINE", "tgi", "'vllm' or 'sglang'"),
        ("REQUEST_TIMEOUT", "soon", "a valid number"),
        ("DRAIN_TIMEOUT", "-1", "greater than 0"),
        ("LOG_LEVEL", "loud", "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"),
        ("LOG_FORMAT", "xml", "'text' or 'json'"),
    ],
)
def test_an_invalid_value_is_an_error_with_its_variable_and_what_it_must_be(variable, value, right):
    with pytest.raises(InvalidSetting) as caught:
        load_settings({variable: value})
    assert str(caught.value) == f"{variable}={value!r} must be {right}."
    assert caught.value.exit_code == 2


def test_all_invalid_values_are_in_one_error():
    with pytest.raises(InvalidSetting) as caught:
        load_settings({"ENGINE": "tgi", "LOG_FORMAT": "xml"})
    assert str(caught.value) == (
        "ENGINE='tgi' must be 'vllm' or 'sglang'.\nLOG_FORMAT='xml' must be 'text' or 'json'."
    )


def test_the_token_is_not_in_the_repr():
    settings = load_settings({"HF_TOKEN": "hf_secret"})
    assert "hf_secret" not in repr(settings)
    assert settings.hf_token.get_secret_value() == "hf_secret"


def test_an_invalid_token_is_an_error_without_the_token():
    with pytest.raises(InvalidSetting) as caught:
        load_settings({"HF_TOKEN": "hf_secret\nhf_other"})
    assert str(caught.value) == "HF_TOKEN must be one word without spaces or line breaks."


def test_the_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_settings({}).engine = "other"


def test_every_setting_has_a_variable_and_a_description():
    assert [
        name for name in setting_variables() if not Settings.model_fields[name].description
    ] == []
    names = [name for names in setting_variables().values() for name in names]
    assert len(names) == len(set(names))
