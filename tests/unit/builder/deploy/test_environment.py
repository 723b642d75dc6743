"""The environment of an endpoint's workers."""

import pytest

from builder.deploy.environment import is_secret, parse_env_arguments
from builder.errors import InvalidArgument


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
    with pytest.raises(InvalidArgument, match="--env PROMETHEUS_PUSHGATEWAY=… shows a secret"):
        parse_env_arguments(
            ["PROMETHEUS_PUSHGATEWAY=https://user:password@push.example"], {}, base={}
        )


def test_a_later_argument_wins_and_an_empty_value_removes_the_variable():
    given = parse_env_arguments(["A=", "B=", "B=3"], {}, base={"A": "1", "B": "2"})
    assert given.applied_to({"A": "1", "C": "5", "HF_TOKEN": "x"}) == {"B": "3", "HF_TOKEN": "x"}


def test_an_argument_without_a_name_is_refused():
    with pytest.raises(InvalidArgument, match=r"^--env '=1' must be NAME=VALUE, NAME or NAME=\.$"):
        parse_env_arguments(["=1"], {}, base={})
