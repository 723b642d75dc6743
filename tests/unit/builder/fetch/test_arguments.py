"""Build arguments are read as the worker reads the same variables."""

import pytest

from builder.fetch import __main__ as fetch
from builder.fetch.request import hub_token


def requested(*arguments, **environ):
    options = fetch._parser(environ).parse_args(arguments)
    [(request, _)] = fetch._requests(options, environ)
    return request


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ("None", "auto"),
        ("null", "auto"),
        ("", "auto"),
        ('"AWQ"', "awq"),
        ("none", "none"),
        ("awq_marlin,", "awq_marlin"),
    ],
)
def test_a_word_for_nothing_and_quotes_around_a_method(given, method):
    assert requested("org/name", QUANTIZATION=given).quantization == method
    assert requested("org/name", "--quantization", given).quantization == method


def test_a_word_for_nothing_is_no_revision_and_no_pattern():
    request = requested("org/name", "--revision", "None", ALLOW_PATTERNS="null")
    assert (request.revision, request.patterns) == ("main", ())


def test_a_token_in_quotes_is_the_token():
    assert hub_token({"HF_TOKEN": "'hf_x'"}).get_secret_value() == "hf_x"
    assert hub_token({"HF_TOKEN": "None"}) is None


def test_without_a_repository_nothing_is_fetched(capsys):
    for name in ("None", "", '""'):
        with pytest.raises(SystemExit) as ended:
            fetch.main([name], {})
        assert ended.value.code == 2
        assert "give a repository" in capsys.readouterr().err
