"""Who may ask: the keys of API_KEY, compared in constant time."""

import hmac
from collections.abc import Mapping, Sequence

from handler.errors import BadSetting, Unauthorized
from handler.settings import Settings

LOOPBACK = ("127.", "::1", "localhost")


class Keys:
    """The keys that are right; with none every request is.

    Args:
        keys: one or several.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Let a request pass that has a key, as OpenAI's clients send it, or as Anthropic's do.

        Raises:
            Unauthorized: it has none, or a wrong one.
        """
        if not self._keys:
            return
        sent = headers.get(b"authorization") or headers.get(b"x-api-key") or b""
        word, _, rest = sent.partition(b" ")
        given = rest.strip() if word.lower() == b"bearer" else sent.strip()
        right = [hmac.compare_digest(given, key) for key in self._keys]  # all, whichever is right
        if not any(right):
            raise Unauthorized(
                "The key is wrong."
                if given
                else "A key is needed: send the header `Authorization: Bearer …`."
            )


def keys(settings: Settings) -> Keys:
    """Return the keys; none are needed where nobody but the platform can reach the worker.

    Raises:
        BadSetting: everybody could ask, and nothing says that this is meant.
    """
    text = settings.api_key.get_secret_value() if settings.api_key else ""
    given = [key.strip() for key in text.split(",") if key.strip()]
    local = settings.http_host.startswith(LOOPBACK)
    if not (given or settings.endpoint_id or local or settings.allow_unauthenticated):
        raise BadSetting(
            "API_KEY is not set, and anybody who reaches this port could use the model: set "
            "API_KEY to one or several keys (API_KEY=first,second), or ALLOW_UNAUTHENTICATED=1."
        )
    return Keys(given)
