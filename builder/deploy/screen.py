"""What the user sees: lines in which no secret stands."""

import re
from collections.abc import Iterable

from handler.environ import variables

STARS = "***"
SHORTEST = 4  # a shorter text would be found in words that are none
# MAX_NUM_BATCHED_TOKENS is a number: TOKENS are no secret.
SECRET = re.compile(r"(TOKEN|KEYS?|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?)$")
# Runpod puts the account's own secret there when a worker starts: the text itself is none.
REFERENCE = re.compile(r"\{\{\s*RUNPOD_SECRET_\w+\s*\}\}")
_OURS = frozenset(name for field in ("hf_token", "api_key") for name in variables()[field])


def is_secret(name: str, value: str) -> bool:
    """Whether nobody may see a variable's value."""
    named_so = name in _OURS or SECRET.search(name.upper()) is not None
    return named_so and REFERENCE.fullmatch(value) is None


class Screen:
    """Prints lines at once, with stars where a secret stands."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def keep(self, values: Iterable[str]) -> None:
        """Remember texts that must never be shown."""
        self._secrets.update(value for value in values if len(value) >= SHORTEST)

    def hide(self, text: str) -> str:
        """Return the text without what must not be shown."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, STARS)
        return text

    def __call__(self, line: str = "") -> None:
        """Print a line."""
        print(self.hide(line), flush=True)
