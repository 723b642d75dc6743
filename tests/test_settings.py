"""Settings are read once, from the environ that is passed in, and a bad one says what is right."""

import pytest

from handler.environ import load, variables
from handler.errors import InvalidSetting
from handler.setting_types import parse_domains, parse_origins
from handler.settings import Settings


def test_defaults_need_no_variable():
    """An empty environment gives every default."""
    settings = load({})
    assert (settings.engine, settings.max_concurrency, settings.drain_timeout_seconds) == (
        "vllm",
        "auto",
        30.0,
    )
    assert settings.job_url is None


def test_an_alias_of_another_worker_is_read():
    """Names that people have from worker-vllm keep working."""
    settings = load(
        {"OPENAI_SERVED_MODEL_NAME_OVERRIDE": "mine", "VLLM_EXTRA_ARGS": "--enforce-eager"}
    )
    assert (settings.served_model_name, settings.engine_args) == ("mine", "--enforce-eager")


def test_an_empty_value_is_no_value():
    """A Hub form sends what was left blank as empty text."""
    assert load({"MAX_CONCURRENCY": "", "REQUEST_TIMEOUT": " ", "LOG_LEVEL": "info "}) == load({})


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [
        ("MAX_CONCURRENCY", "many", "'auto' or a valid integer"),
        ("MAX_CONCURRENCY", "0", "'auto' or greater than 0"),
        ("ENGINE", "tgi", "'vllm' or 'sglang'"),
        ("REQUEST_TIMEOUT", "soon", "a valid number"),
        ("DRAIN_TIMEOUT", "-1", "greater than 0"),
        ("LOG_LEVEL", "loud", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("LOG_FORMAT", "xml", "'text' or 'json'"),
    ],
)
def test_a_bad_value_names_the_variable_the_value_and_what_is_right(variable, value, right):
    """One sentence says it all."""
    with pytest.raises(InvalidSetting) as caught:
        load({variable: value})
    assert str(caught.value) == f"{variable}={value!r} should be {right}."
    assert caught.value.exit_code == 2


def test_all_bad_values_are_named_at_once():
    """Nobody wants to learn of the second mistake after the second deployment."""
    with pytest.raises(InvalidSetting) as caught:
        load({"ENGINE": "tgi", "LOG_FORMAT": "xml"})
    assert str(caught.value) == (
        "ENGINE='tgi' should be 'vllm' or 'sglang'.\nLOG_FORMAT='xml' should be 'text' or 'json'."
    )


def test_the_token_never_shows():
    """Its type prints stars."""
    settings = load({"HF_TOKEN": "hf_secret"})
    assert "hf_secret" not in repr(settings)
    assert settings.hf_token.get_secret_value() == "hf_secret"


def test_a_token_that_is_none_is_said_without_showing_it():
    """Such as two lines of a file."""
    with pytest.raises(InvalidSetting) as caught:
        load({"HF_TOKEN": "hf_secret\nhf_other"})
    assert str(caught.value) == "HF_TOKEN should be one word without spaces or line breaks."


def test_the_settings_are_frozen():
    """Nothing changes them after the start."""
    with pytest.raises(ValueError, match="frozen"):
        load({}).engine = "other"


def test_every_setting_has_a_variable_and_a_description():
    """The README's table and the Hub's form are made from these."""
    assert [name for name in variables() if not Settings.model_fields[name].description] == []
    names = [name for names in variables().values() for name in names]
    assert len(names) == len(set(names))


PAGES = "pages as https://name or http://name:port, or *, not"
NAMES = "names as a.example, without https:// and a path, not"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("CORS_ORIGINS", "a.example", f"{PAGES} 'a.example'"),
        ("CORS_ORIGINS", "*, https://a.example/app", f"{PAGES} 'https://a.example/app'"),
        ("CORS_ORIGINS", "https://a.example?x", f"{PAGES} 'https://a.example?x'"),
        ("ALLOWED_MEDIA_DOMAINS", "https://a.example", f"{NAMES} 'https://a.example'"),
        ("ALLOWED_MEDIA_DOMAINS", "b.example,a.example/x", f"{NAMES} 'a.example/x'"),
    ],
)
def test_a_place_on_the_web_that_could_never_match_is_refused(name, value, right):
    """Browsers send an origin without a path, and a host has no scheme."""
    with pytest.raises(InvalidSetting) as caught:
        load({name: value})
    assert str(caught.value) == f"{name}={value!r} should be {right}."


def test_places_on_the_web():
    """With a slash at the end, as a JSON list, in any case."""
    assert parse_origins("http://localhost:3000/, https://a.example,*") == [
        *("http://localhost:3000", "https://a.example", "*")
    ]
    odd = "null,chrome-extension://abc,http://[::1]:3000"
    assert parse_origins(odd) == odd.split(",")
    assert parse_domains('["A.example", "b.example"]') == {"a.example", "b.example"}
    assert parse_domains("[2606:4700::1111]") == {"2606:4700::1111"}
    assert (parse_origins(""), parse_domains("")) == ([], frozenset())
