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


@pytest.mark.parametrize("variable", ["RUNPOD_ENDPOINT_ID", "RUNPOD_POD_ID"])
@pytest.mark.parametrize(
    ("more", "mode", "port"),
    [
        ({}, "http", 80),
        ({"PORT": "8001"}, "http", 8001),
        ({"SERVE_MODE": "http"}, "http", 80),
        ({"SERVE_MODE": "local"}, "local", 80),
        ({"RUNPOD_WEBHOOK_GET_JOB": "http://queue"}, "queue", 80),
    ],
    ids=["alone", "PORT", "SERVE_MODE=http", "SERVE_MODE=local", "queue"],
)
def test_on_the_platform_what_has_no_queue_serves_http_on_port_80(variable, more, mode, port):
    """A load-balancing endpoint, or a Pod."""
    settings = load_settings({variable: "x", **more})
    assert (settings.mode, settings.http_port) == (mode, port)


def test_elsewhere_a_job_runs_unless_there_is_a_port():
    modes = [load_settings(environ).mode for environ in ({}, {"PORT": "8000"})]
    assert modes == ["local", "http"]


@pytest.mark.parametrize("path", ["ping", "/", "//a", "/a/", "/a b", "/{id}", "/a?b", "/é"])
def test_a_health_path_is_a_plain_path(path):
    with pytest.raises(InvalidSetting) as caught:
        load_settings({"HEALTH_CHECK_PATH": path})
    assert str(caught.value) == (
        f"HEALTH_CHECK_PATH={path!r} must be a path that begins with /, such as /ping or /healthz."
    )


@pytest.mark.parametrize("mode", [{}, {"RUNPOD_WEBHOOK_GET_JOB": "http://queue"}])
def test_the_sdks_own_server_is_refused(mode):
    with pytest.raises(InvalidSetting) as caught:
        load_settings({"RUNPOD_REALTIME_PORT": "8080", **mode})
    assert str(caught.value) == (
        "RUNPOD_REALTIME_PORT='8080' asks for the SDK's own HTTP server, which has no OpenAI "
        "routes: leave it out, or set SERVE_MODE=http and PORT for the worker's server."
    )


@pytest.mark.parametrize("more", [{"SERVE_MODE": "http"}, {"SERVE_MODE": "local"}])
def test_the_sdks_own_server_is_none_where_the_sdk_does_not_run(more):
    load_settings({"RUNPOD_REALTIME_PORT": "8080", **more})
    load_settings({"RUNPOD_REALTIME_PORT": "0"})
