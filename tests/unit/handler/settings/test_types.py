"""Types of settings: origins, domains, methods of speculative decoding."""

import pytest

from handler.errors import InvalidSetting
from handler.serve.queue.sdk_patches import sdk_environment
from handler.settings.environ import load_settings
from handler.settings.types import parse_domains, parse_origins

ORIGIN = "origins such as https://name or http://name:port, or *, not"
DOMAIN = "domains such as a.example, without https:// and path, not"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("CORS_ORIGINS", "a.example", f"{ORIGIN} 'a.example'"),
        ("CORS_ORIGINS", "*, https://a.example/app", f"{ORIGIN} 'https://a.example/app'"),
        ("CORS_ORIGINS", "https://a.example?x", f"{ORIGIN} 'https://a.example?x'"),
        ("ALLOWED_MEDIA_DOMAINS", "https://a.example", f"{DOMAIN} 'https://a.example'"),
        ("ALLOWED_MEDIA_DOMAINS", "b.example,a.example/x", f"{DOMAIN} 'a.example/x'"),
    ],
    ids=["no scheme", "path", "query", "scheme", "domain and path"],
)
def test_an_origin_or_domain_that_could_never_match_is_an_error(name, value, right):
    with pytest.raises(InvalidSetting) as caught:
        load_settings({name: value})
    assert str(caught.value) == f"{name}={value!r} must be {right}."


def test_origins_are_as_browsers_send_them():
    assert parse_origins("http://localhost:3000/, https://a.example,*") == [
        *("http://localhost:3000", "https://a.example", "*")
    ]
    text = "null,chrome-extension://abc,http://[::1]:3000"
    assert parse_origins(text) == text.split(",")
    assert parse_origins("") == []


def test_domains_may_be_a_json_list_in_any_case():
    assert parse_domains('["A.example", "b.example"]') == {"a.example", "b.example"}
    assert parse_domains("[2606:4700::1111]") == {"2606:4700::1111"}
    assert parse_domains("") == frozenset()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"SPECULATIVE_ALGORITHM": "STANDALONE", "SPECULATIVE_DRAFT_MODEL_PATH": "org/draft"},
            ("draft", "org/draft", None),
        ),
        (
            {"SPEC_METHOD": "draft_model", "SPEC_MODEL": "org/draft", "SPEC_TOKENS": "5"},
            ("draft", "org/draft", 5),
        ),
        ({"SPECULATIVE_ALGORITHM": "NEXTN"}, ("mtp", None, None)),
        ({"SPECULATIVE_METHOD": "deepseek_mtp"}, ("mtp", None, None)),
    ],
    ids=["sglang", "vllm", "mtp", "older mtp"],
)
def test_speculative_decoding_has_the_names_of_both_engines(environ, expected):
    settings = load_settings(environ)
    assert expected == (
        settings.speculative_method,
        settings.speculative_model,
        settings.num_speculative_tokens,
    )


def test_an_unknown_speculative_method_is_an_error():
    with pytest.raises(InvalidSetting) as caught:
        load_settings({"SPECULATIVE_METHOD": "medusa"})
    assert str(caught.value) == (
        "SPECULATIVE_METHOD='medusa' must be 'none', 'ngram', 'draft', 'eagle', 'eagle3' or 'mtp'."
    )


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("big", ("big",)),
        ("big,small", ("big", "small")),
        (" big, small ,", ("big", "small")),
        ("big small", ("big", "small")),
        ('["big", "org/small:1"]', ("big", "org/small:1")),
        ("'big','small'", ("big", "small")),
        ("big,big", ("big",)),
        ("", ()),
        ("None", ()),
    ],
)
@pytest.mark.parametrize("variable", ["SERVED_MODEL_NAME", "OPENAI_SERVED_MODEL_NAME_OVERRIDE"])
def test_a_model_may_have_several_names(variable, value, names):
    assert load_settings({variable: value}).model_names == names


@pytest.mark.parametrize("value", ["[broken", "[1]", '["a", 1]', '[""]', "a{b}", ",,"])
def test_a_name_of_the_model_that_is_none_is_an_error(value):
    with pytest.raises(InvalidSetting, match=r"^SERVED_MODEL_NAME='.*' must be (words|a name)"):
        load_settings({"SERVED_MODEL_NAME": value})


@pytest.mark.parametrize(
    ("value", "level", "of_the_sdk"),
    [
        ("WARN", "WARNING", "WARN"),
        ("warning", "WARNING", "WARN"),
        ("FATAL", "CRITICAL", "ERROR"),
        ("critical", "CRITICAL", "ERROR"),
        ("trace", "DEBUG", "DEBUG"),
        ("20", "INFO", "WARN"),
        ("40", "ERROR", "ERROR"),
        ("None", "INFO", "WARN"),
    ],
)
def test_a_log_level_has_the_names_and_numbers_that_people_know(value, level, of_the_sdk):
    assert load_settings({"LOG_LEVEL": value}).log_level == level
    assert sdk_environment(level, {})["RUNPOD_LOG_LEVEL"] == of_the_sdk


@pytest.mark.parametrize(
    ("value", "level"),
    [("warning", "WARN"), ("info", "INFO"), ("TRACE", "TRACE"), ("FATAL", "ERROR"), ("", "WARN")],
)
def test_the_sdks_own_log_level_is_one_that_it_knows(value, level):
    given = {"RUNPOD_LOG_LEVEL": value}
    assert sdk_environment("INFO", given)["RUNPOD_LOG_LEVEL"] == level
    with pytest.raises(InvalidSetting, match=r"^RUNPOD_LOG_LEVEL='loud' must be one of DEBUG, "):
        sdk_environment("INFO", {"RUNPOD_LOG_LEVEL": "loud"})
