"""Secrets in texts that leave the worker: errors, log lines, what a start prints."""

import re
from collections.abc import Iterable

STARS = "***"
# The user and password of a URL, up to the last @ before its path.
USER_INFO = re.compile(r"(?<=://)[^/\s'\"]*(?=@)")
_secrets: set[str] = set()


def hide_secrets(values: Iterable[str | None]) -> None:
    """Have `redact` replace these texts, such as the hub token."""
    _secrets.update(value for value in values if value)


def redact(text: str) -> str:
    """Return the text with stars in place of secrets and of the passwords in URLs."""
    for secret in _secrets:
        text = text.replace(secret, STARS)
    return USER_INFO.sub(STARS, text) if "@" in text else text
