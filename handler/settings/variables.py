"""What the text of an environment variable says, without what forms and files put around it.

Only the standard library is imported: the image's health check reads variables too.
"""

import json
import re

BLANKS = " \t\r\n\f\v\u00a0\u200b\ufeff"
QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "„": "“", "«": "»"}
NO_VALUE = frozenset({"none", "null"})
ZERO = re.compile(r"[+-]?(0+(\.0*)?|\.0+)")
ONE_WORD = re.compile(r"[^\s{}]+")
COMMENTED_WORD = re.compile(r"([^\s{}#][^\s{}]*)\s+#.*")


def clean_value(text: str) -> str:
    """Return the text without blanks, quotes and a comma around it, and a comment after one word.

    Docker's `--env-file` keeps quotes and comments, and a line that was copied out of JSON ends in
    a comma. What is inside JSON or free text, such as a chat template, stays as it is.
    """
    before = None
    while text != before:
        before, text = text, text.strip(BLANKS)
        if commented := COMMENTED_WORD.fullmatch(text):
            text = commented[1]
        text = _without_quotes(_without_comma(text))
    return text


def is_no_value(text: str) -> bool:
    """Whether the text is Python's or JSON's word for nothing, a default that was copied."""
    return text.lower() in NO_VALUE


def is_zero(text: str) -> bool:
    return ZERO.fullmatch(text) is not None


def _without_comma(text: str) -> str:
    if not text.endswith(","):
        return text
    rest = text[:-1].rstrip(BLANKS)
    is_whole = ONE_WORD.fullmatch(rest) or _json(rest) is not None or _without_quotes(rest) != rest
    return rest if is_whole else text


def _without_quotes(text: str) -> str:
    if len(text) < 2 or QUOTES.get(text[0]) != text[-1]:
        return text
    inner = text[1:-1]
    if text[0] not in inner and text[-1] not in inner:
        return inner
    escaped = _json(text)
    for candidate in (inner, escaped):
        if isinstance(candidate, str) and isinstance(_json(candidate), dict | list):
            return candidate
    return text


def _json(text: str) -> object:
    """Return the decoded JSON, None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
