"""Who may call: the keys of API_KEY, and without keys only this machine and listed web pages."""

import hmac
import ipaddress
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from handler.errors import InvalidSetting, Unauthorized


class ApiKeys:
    """The valid keys; without any, every request from an allowed origin is.

    Args:
        keys: compared in constant time.
        origins: of web pages that may call without a key, `*` for any.
    """

    def __init__(self, keys: Sequence[str], origins: Collection[str] = ()) -> None:
        self._origins = origins
        self._keys = [key.encode() for key in keys]

    def check(self, headers: Headers) -> None:
        """Accept a key as OpenAI's clients send it, or as Anthropic's do.

        Raises:
            Unauthorized: there is none, or it is not valid.
        """
        if not self._keys:
            self._check_origin(headers)
            return
        sent = [_key_in(headers.get(name, "")) for name in ("authorization", "x-api-key")]
        # A list, not a generator: all are compared, whichever matches.
        matches = [hmac.compare_digest(each, key) for each in sent for key in self._keys]
        if not any(matches):
            raise Unauthorized(
                "The API key is not valid."
                if any(sent)
                else "An API key is needed: send the header `Authorization: Bearer …`."
            )

    def _check_origin(self, headers: Headers) -> None:
        """Refuse web pages of other sites, which could use the model through the user's browser.

        Also a page whose own name resolves to this machine: the browser sends that name as host.
        """
        if "*" in self._origins:
            return
        origin, host = headers.get("origin", ""), headers.get("host", "")
        if not _is_loopback(_hostname(host)):
            raise Unauthorized("Call this worker as localhost or 127.0.0.1.")
        if origin and origin not in self._origins and origin.partition("://")[2] != host:
            raise Unauthorized("This page may not call the worker: add it to CORS_ORIGINS.")


def api_keys(
    api_key: str, *, host: str, origins: Collection[str], is_behind_gateway: bool, allow_all: bool
) -> ApiKeys:
    """Return the keys in API_KEY.

    Args:
        api_key: one or several keys, with commas between.
        host: the address that HTTP is served on.
        origins: CORS_ORIGINS.
        is_behind_gateway: whether the platform's gateway checks keys.
        allow_all: ALLOW_UNAUTHENTICATED.

    Raises:
        InvalidSetting: anybody could call, and no setting allows that; or a key has the brackets or
            quotes of a list.
    """
    keys = [key.strip() for key in api_key.split(",") if key.strip()]
    if any(mark in key for key in keys for mark in "[]\"'"):
        raise InvalidSetting(
            "API_KEY must be one or several keys with commas between (API_KEY=first,second), "
            "without brackets and quotes."
        )
    is_local = _is_loopback(host)
    if not (keys or is_behind_gateway or is_local or allow_all):
        raise InvalidSetting(
            "API_KEY is not set, and anybody who reaches this port could use the model: set "
            "API_KEY to one or several keys (API_KEY=first,second), or ALLOW_UNAUTHENTICATED=1."
        )
    # Behind a gateway or a proxy, the host that a page was loaded from has another name.
    return ApiKeys(keys, origins if is_local else ("*",))


def _key_in(header: str) -> bytes:
    scheme, _, rest = header.partition(" ")
    key = rest if scheme.lower() == "bearer" else header
    return key.strip().encode("latin-1")


def _hostname(host_header: str) -> str:
    """Return a Host header without its port; an invalid one has no name."""
    try:
        return urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
