"""A stop_regex is refused if the search for it could take long."""

import pytest

from handler.errors import InvalidInput
from handler.request.limits import RequestLimits
from handler.request.parse import RequestParser
from handler.request.stop_regex import check_stop_regex
from tests.support.engine_fields import ENGINE_FIELDS

LIMITS = RequestLimits(
    max_schema_bytes=1_000, max_schema_items=20, max_sequences=8, max_sampling_items=1_000
)
PARSER = RequestParser(("m",), "org/m", ENGINE_FIELDS["sglang"], limits=LIMITS)
ENDLESS = "must have no *, + or {n,}: use {n,m}."
SLOW = "is too slow to search for at every token: use fewer or smaller repetitions."
UNKNOWN = (
    "must have no lookaround, no back reference, no possessive repetition, and no [^a] of a single "
    "character."
)


@pytest.mark.parametrize(
    "pattern",
    [
        "and|or",
        r"[.!?]\s{0,8}$",
        r"\n{2,8}",
        r"(?i)(yes|no)[.!?]",
        r"\d{1,10}\.\d{1,10}",
        r"\s{0,64}END",
        "(?:a{1,3}){1,4}?b",
        "[^ab]{1,100}:",
        "",
    ],
)
def test_a_usual_pattern_passes(pattern):
    check_stop_regex({"stop_regex": pattern})
    check_stop_regex({"stop_regex": [pattern, "or"], "stop": ["a", "b"]})


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a+)+b", ENDLESS),
        (r"\s*$", ENDLESS),
        ("a{2,}", ENDLESS),
        ("(a|a){30}b", SLOW),
        ("(a?){30}b", SLOW),
        ("a?" * 30 + "b", SLOW),
        ("a{0,30}a{0,30}b", SLOW),
        ("((a{0,99}){0,99}){0,99}", SLOW),
        ("a{4294967294}", SLOW),
        ("(){4294967294}", SLOW),
        ("(a)(?=b)", UNKNOWN),
        (r"(a)\1", UNKNOWN),
        ("[^a]", UNKNOWN),
        ("a?+b", UNKNOWN),
        ("a(", "is not a regex: missing ), unterminated subpattern at position 1."),
        ("a{99999999999999999999}", "is not a regex: the repetition number is too large."),
        ("a" * 257, "has more than 256 bytes."),
    ],
)
def test_a_pattern_that_could_take_long_is_rejected(pattern, message):
    """On every route with one."""
    for data in (
        {"prompt": "a", "stop_regex": pattern},
        {"messages": [], "sampling_params": {"stop_regex": ["or", pattern]}},
        {"route": "generate", "body": {"text": "a", "sampling_params": {"stop_regex": pattern}}},
    ):
        with pytest.raises(InvalidInput) as raised:
            PARSER.parse_job({"id": "j", "input": data})
        assert (str(raised.value), raised.value.param) == (f"stop_regex {message}", "stop_regex")


def test_all_patterns_of_a_request_are_bounded_together():
    check_stop_regex({"stop_regex": [".{1,100}b"] * 3})
    with pytest.raises(InvalidInput, match="too slow"):
        check_stop_regex({"stop_regex": [".{1,100}b"] * 4})


def test_the_longest_stop_counts_too():
    """SGLang searches as much of the output as the longest of both may be."""
    check_stop_regex({"stop_regex": r"\n{2,8}", "stop": "a" * 1_000})
    with pytest.raises(InvalidInput, match="too slow"):
        check_stop_regex({"stop_regex": r"\n{2,8}", "stop": ["b", "a" * 10_000]})
