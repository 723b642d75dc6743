"""Names that are like one that the hub does not have."""

import pytest

from handler.model.hub_names import FIRST_WORDS, nearest


@pytest.mark.parametrize(
    ("name", "others", "found"),
    [
        (
            "org/tiny-awk",
            ["org/tiny-awq", "else/huge", "org/tiny-fp8"],
            ["org/tiny-awq", "org/tiny-fp8"],
        ),
        ("me/tiny-awq", ["a/tiny-awq", "b/tiny-awq", "a/tiny-awq"], ["a/tiny-awq", "b/tiny-awq"]),
        ("ORG/TINY", ["x/other", "org/tiny"], ["org/tiny"]),
        ("org/a", [f"org/a{number}" for number in range(9)], ["org/a0", "org/a1", "org/a2"]),
        ("org/a", [], []),
    ],
    ids=["name", "owner", "case", "many", "none"],
)
def test_the_nearest_names_come_first(name, others, found):
    """Of equals the one that the hub names first, the most downloaded."""
    assert nearest(name, others) == found


@pytest.mark.parametrize(
    ("base", "words"),
    [("Qwen2.5-7B-Instruct-AWQ", "Qwen2.5-7B"), ("phi_4_mini", "phi_4"), ("gpt2", "gpt2")],
)
def test_the_search_is_for_the_first_two_words(base, words):
    assert FIRST_WORDS.match(base)[0] == words
