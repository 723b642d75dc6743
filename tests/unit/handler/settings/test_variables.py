"""What stands around a variable's value is taken off, and nothing inside it."""

import pytest

from handler.settings.variables import clean_value, is_no_value, is_zero


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 8192 ", "8192"),
        ("\u00a08192\u200b\n", "8192"),
        ('"8192"', "8192"),
        ("' 8192 '", "8192"),
        ("`8192`", "8192"),
        ("“8192”", "8192"),
        ('"8192",', "8192"),
        ("8192,", "8192"),
        ("'\"8192\"'", "8192"),
        ('""', ""),
        ("'None',", "None"),
        ('\'{"method": "ngram"}\'', '{"method": "ngram"}'),
        ('"{"method": "ngram"}"', '{"method": "ngram"}'),
        ('"{\\"method\\": \\"ngram\\"}",', '{"method": "ngram"}'),
        ('["a", "b"],', '["a", "b"]'),
        ('"--max-num-seqs 8 --dtype half"', "--max-num-seqs 8 --dtype half"),
        ('"{{ messages }}"', "{{ messages }}"),
        ("8192 # tokens", "8192"),
        ("'8192' # tokens, not words", "8192"),
        ("„8192“", "8192"),
    ],
)
def test_blanks_quotes_and_a_comma_around_the_whole_value_are_taken_off(text, value):
    assert clean_value(text) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "b,"}',
        '"a" "b"',
        "'--x' '8'",
        "{{ 'Hello' }},",
        "{% if x %}a,{% endif %},",
        "it's",
        '"',
        '["a", "b"]',
        "say 'no',",
        "a,b",
        '{"text": "None"}',
        "# a comment",
        "a#b",
        "--seed 3 # and more",
        "{{ x }} # {{ y }}",
        "a # b\nc",
    ],
)
def test_what_is_inside_a_value_stays(text):
    assert clean_value(text) == text


@pytest.mark.parametrize("text", ["None", "none", "NULL", "null"])
def test_words_for_no_value(text):
    assert is_no_value(text)


@pytest.mark.parametrize(
    ("text", "zero"),
    [
        *((text, True) for text in ("0", "0.0", "-0", ".0", "00", "0.")),
        *((text, False) for text in ("", "0.1", "10", "0x", ".")),
    ],
)
def test_zero_in_any_spelling(text, zero):
    assert is_zero(text) is zero
