"""What the user sees: lines in which no secret stands."""

import os
import sys
from collections.abc import Iterable

STARS = "***"
SHORTEST = 4  # a shorter text would be found in words that are none


class Screen:
    """Prints lines at once, with stars where a secret stands.

    Args:
        ends_unread: whether there is nothing more to do when nobody reads on, as with `| head`.
    """

    def __init__(self, ends_unread: bool = False) -> None:
        self._ends_unread = ends_unread
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
        """Print a line.

        Raises:
            BrokenPipeError: nobody reads, and that is the end.
        """
        try:
            print(self.hide(line), flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if self._ends_unread:
                raise
