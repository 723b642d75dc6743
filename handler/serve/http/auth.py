"""Who may ask: the keys of API_KEY, compared in constant time."""

import hmac
import ipaddress
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from handler.errors import InvalidSetting, Unauthorized
from handler.setting_types import origins
from handler.settings import Settings


class ApiKeys:
    """The keys that are right; with none every request is.

    Args:
        keys: one or several.
        pages: origins of web pages that may call without a key, `*` for any.
    """

    def __init__(self, keys: Sequence[str], pages: Collection[str] = ()) -> None:
        self._pages = pages
        self._keys = [key.encode() for key in keys]

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Let a request pass that has a key, as OpenAI's clients send it, or as Anthropic's do.

        Raises:
            Unauthorized: it has none, or a wrong one.
        """
        if not self._keys:
            self._check_origin(headers)
            return
        given = [_key(headers.get(name, b"")) for name in (b"authorization", b"x-api-key")]
        # All with all, whichever is right.
        right = [hmac.compare_digest(each, key) for each in given for key in self._keys]
        if not any(right):
            raise Unauthorized(
                "The key is wrong."
                if any(given)
                else "A key is needed: send the header `Authorization: Bearer …`."
            )

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """Without a key, a page that somebody has open elsewhere could use the model.

        Also one whose own name has been made to lead to this machine: it sends that as the host.
        """
        if "*" in self._pages:
            return
        origin, host = headers.get(b"origin", b""), headers.get(b"host", b"")
        if not _is_loopback(_name(host.decode("latin-1"))):
            raise Unauthorized("Call this worker as localhost or 127.0.0.1.")
        is_listed = origin.decode("latin-1") in self._pages
        if origin and not is_listed and origin.partition(b"://")[2] != host:
            raise Unauthorized("This page may not call the worker: CORS_ORIGINS names who may.")


def _key(sent: bytes) -> bytes:
    word, _, rest = sent.partition(b" ")
    return rest.strip() if word.lower() == b"bearer" else sent.strip()


def _name(host: str) -> str:
    """Return a Host header without its port; what is none is no name."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def keys(settings: Settings) -> ApiKeys:
    """Return the keys; none are needed where nobody but the platform can reach the worker.

    Raises:
        InvalidSetting: everybody could ask, and nothing says that this is meant.
    """
    text = settings.api_key.get_secret_value() if settings.api_key else ""
    given = [key.strip() for key in text.split(",") if key.strip()]
    local = _is_loopback(settings.http_host)
    if not (given or settings.endpoint_id or local or settings.allow_unauthenticated):
        raise InvalidSetting(
            "API_KEY is not set, and anybody who reaches this port could use the model: set "
            "API_KEY to one or several keys (API_KEY=first,second), or ALLOW_UNAUTHENTICATED=1."
        )
    # Behind a gateway or a proxy the host that a page was loaded from is another one's name.
    return ApiKeys(given, origins(settings.cors_origins) if local else ("*",))
