"""What the user sees: lines in which no secret stands."""

from collections.abc import Iterable

STARS = "***"
SHORTEST = 4  # a shorter text would be found in words that are none


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
