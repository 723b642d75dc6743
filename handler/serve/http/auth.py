"""Authentication by API_KEY; without keys, only local clients and allowed web pages may call."""

import hmac
import ipaddress
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from handler.errors import InvalidSetting, Unauthorized


class ApiKeys:
    """The valid API keys; without keys, requests are checked by origin.

    Args:
        keys: the valid keys, compared in constant time.
        origins: origins of web pages that may call without a key, `*` for any.
    """

    def __init__(self, keys: Sequence[str], origins: Collection[str] = ()) -> None:
        self._origins = origins
        self._keys = [key.encode() for key in keys]

    def check(self, headers: Headers) -> int | None:
        """Check the key of a request, in the header of OpenAI's or Anthropic's clients.

        Returns:
            The key's number, which owns the jobs that the request submits; None without keys.

        Raises:
            Unauthorized: the key is missing or invalid.
        """
        if not self._keys:
            self._check_origin(headers)
            return None
        sent = [_key_in(headers.get(name, "")) for name in ("authorization", "x-api-key")]
        # A list, not a generator: constant time needs all comparisons.
        matches = [
            number
            for each in sent
            for number, key in enumerate(self._keys)
            if hmac.compare_digest(each, key)
        ]
        if not matches:
            raise Unauthorized(
                "The API key is invalid."
                if any(sent)
                else "The API key is missing: send the header `Authorization: Bearer …`."
            )
        return matches[0]

    def _check_origin(self, headers: Headers) -> None:
        """Reject web pages of other sites, which could use the model through the user's browser.

        The check of the host also rejects a site whose name resolves to this machine.
        """
        if "*" in self._origins:
            return
        origin, host = headers.get("origin", ""), headers.get("host", "")
        if not _is_loopback(_hostname(host)):
            raise Unauthorized("The host must be localhost or 127.0.0.1.")
        if origin and origin not in self._origins and origin.partition("://")[2] != host:
            raise Unauthorized("The web page's origin is not allowed: add it to CORS_ORIGINS.")


def api_keys(
    api_key: str, *, host: str, origins: Collection[str], is_behind_gateway: bool, allow_all: bool
) -> ApiKeys:
    """Return the keys in API_KEY.

    Args:
        api_key: one or several keys, separated by commas.
        host: the address that the server listens on.
        origins: CORS_ORIGINS.
        is_behind_gateway: whether the platform's gateway checks keys.
        allow_all: ALLOW_UNAUTHENTICATED.

    Raises:
        InvalidSetting: there is no key and no setting allows that, or a key has brackets or quotes.
    """
    keys = [key.strip() for key in api_key.split(",") if key.strip()]
    if any(mark in key for key in keys for mark in "[]\"'"):
        raise InvalidSetting(
            "API_KEY must be one or several keys, separated by commas (API_KEY=first,second), "
            "without brackets or quotes."
        )
    is_local = _is_loopback(host)
    if not (keys or is_behind_gateway or is_local or allow_all):
        raise InvalidSetting(
            "API_KEY is not set, so anyone who can reach this port could use the model: set "
            "API_KEY to one or several keys (API_KEY=first,second), or ALLOW_UNAUTHENTICATED=1."
        )
    # Behind a gateway or a proxy, the Host header differs from the page's origin.
    return ApiKeys(keys, origins if is_local else ("*",))


def _key_in(header: str) -> bytes:
    scheme, _, rest = header.partition(" ")
    key = rest if scheme.lower() == "bearer" else header
    return key.strip().encode("latin-1")


def _hostname(host_header: str) -> str:
    """Return a Host header without its port, or "" if it is invalid."""
    try:
        return urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
