"""The environment of an endpoint's workers."""

import pytest

from builder.deploy.environment import is_secret, worker_environment
from builder.errors import InvalidArgument


def environment(arguments, environ=None, base=None, current=None, template=None):
    return worker_environment(arguments, environ or {}, base or {}, current or {}, template)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, True) for name in ("HF_TOKEN", "API_KEY", "OPENAI_API_KEY", "DB_PASSWORD")),
        *((name, False) for name in ("MAX_NUM_BATCHED_TOKENS", "BUCKET_TIME_TO_FIRST_TOKEN")),
    ],
)
def test_which_names_are_secret(name, secret):
    assert is_secret(name, "value") is secret


def test_a_url_with_a_password_is_a_secret():
    assert is_secret("PROMETHEUS_PUSHGATEWAY", "https://user:password@push.example")
    assert not is_secret("HF_ENDPOINT", "https://hub.example:8443/a@b")


def test_a_secret_in_the_arguments_is_refused():
    with pytest.raises(InvalidArgument, match="--env PROMETHEUS_PUSHGATEWAY=… exposes a secret"):
        environment(["PROMETHEUS_PUSHGATEWAY=https://user:password@push.example"])


def test_a_later_argument_wins_and_an_empty_value_removes_the_variable():
    current = {"A": "1", "C": "5", "HF_TOKEN": "x"}
    env = environment(["A=", "B=", "B=3"], base={"A": "1", "B": "2"}, current=current)
    assert env.values == {"B": "3", "HF_TOKEN": "x"}


def test_only_values_given_openly_now_or_earlier_are_public():
    env = environment(
        ["OPEN=1", "PRIVATE", "AGAIN"],
        environ={"PRIVATE": "hidden", "AGAIN": "once open"},
        current={"EARLIER": "2", "ELSEWHERE": "3", "DB_PASSWORD": "4", "MODEL_NAME": "org/m"},
        template={"EARLIER": "2", "ELSEWHERE": "9", "DB_PASSWORD": "4", "AGAIN": "once open"},
    )
    assert env.public_values() == {"OPEN": "1", "EARLIER": "2", "MODEL_NAME": "org/m"}
    assert env.secrets() == {"hidden", "once open", "3", "4"}
    assert [env.shown("EARLIER", "2"), env.shown("ELSEWHERE", "3")] == ["2", "***"]


def test_without_a_template_the_values_of_known_settings_are_public():
    env = environment([], current={"LOG_LEVEL": "INFO", "MY_WORD": "x"})
    assert env.public_values() == {"LOG_LEVEL": "INFO"}


def test_an_argument_without_a_name_is_refused():
    with pytest.raises(InvalidArgument, match=r"^--env '=1' must be NAME=VALUE, NAME or NAME=\.$"):
        environment(["=1"])


@pytest.mark.parametrize(
    ("variables", "model"),
    [
        ({"SERVED_MODEL_NAME": "big,small"}, "big"),
        ({"SERVED_MODEL_NAME": "None"}, "org/name"),
        ({}, "org/name"),
        ({"MODEL_NAME": "'org/other'"}, "org/other"),
        ({"MODEL_NAME": "{{ RUNPOD_SECRET_model }}"}, "MODEL"),
    ],
    ids=["names", "none", "repository", "quotes", "secret"],
)
def test_callers_use_the_first_name_of_the_model(variables, model):
    assert environment([], base={"MODEL_NAME": "org/name"} | variables).model == model
