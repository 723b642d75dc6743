"""An HTTP client for public addresses only, against server-side request forgery (SSRF).

IP addresses must be written in full, because the C library also accepts `127.1` and `0x7f000001`.

A host name is resolved once, and the connection goes to the checked address, against DNS rebinding.
Each redirect is checked like the first URL. No proxies, no cookies. Error texts omit the query and
the user of a URL, which may be secrets.
"""

import contextlib
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any

from yarl import URL

from handler import PRODUCT
from handler.engine.awake_clock import AwakeTimeout
from handler.errors import InvalidInput, UrlNotFound

MAX_REDIRECTS = 3
MAX_CONNECTIONS = 8
CHUNK_BYTES = 1 << 16
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
NOT_FOUND_STATUSES = frozenset({404, 410})
WRITTEN_STATUSES = frozenset({200, 201, 204})
MAX_SHOWN_CHARACTERS = 100
USER_INFO = re.compile(r"(?<=:)//[^/\\]*@")  # user and password
# Browsers and the C library read a host as an IP address if its last label is a number.
NUMERIC_HOST = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?")
AZURE_HOST = ".blob.core.windows.net"  # a PUT there needs the header x-ms-blob-type
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# IPv6 ranges that embed an IPv4 address or are deprecated; `ipaddress` counts them as global.
SPECIAL_NETWORKS = [
    ipaddress.ip_network(text) for text in ("2002::/16", "::/96", "64:ff9b:1::/48", "fec0::/10")
]


@dataclass(frozen=True)
class FetchedFile:
    """A fetched file.

    Attributes:
        content_type: without parameters, such as `image/png`.
    """

    content: bytes
    content_type: str


class SafeFetch:
    """The client; use as `async with SafeFetch(…) as web`.

    Args:
        domains: the allowed domains; empty for all.
        max_bytes: the limit for all fetched files together.
        timeout_seconds: for each URL.
        what: the subject of error texts, such as "Media".
        param: the input field of the URL, for errors.
    """

    def __init__(
        self,
        domains: Collection[str] = (),
        *,
        max_bytes: int = 0,
        timeout_seconds: float,
        what: str,
        param: str = "url",
    ) -> None:
        self._domains = domains
        self._max_bytes = self._left_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._what = what
        self._param = param

    async def __aenter__(self) -> "SafeFetch":
        import aiohttp

        connector = aiohttp.TCPConnector(
            resolver=_public_resolver(), use_dns_cache=False, limit=MAX_CONNECTIONS
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # `_errors_explained` has the limit
            headers={"user-agent": PRODUCT},  # some hosts block the default of aiohttp
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, url: str) -> FetchedFile:
        """Return the content of a URL.

        Raises:
            InvalidInput: the URL is not allowed, does not answer, or is too large.
        """
        content = bytearray()
        content_type = await self.fetch(url, content.extend)
        return FetchedFile(bytes(content), content_type)

    async def fetch(self, url: str, on_chunk: Callable[[bytes], object]) -> str:
        """Pass the content of a URL to `on_chunk` in chunks; return its content type.

        Raises:
            UrlNotFound: the server answers 404 or 410.
            InvalidInput: the URL is not allowed, does not answer, or is too large.
        """
        target = self._allowed(url)
        async with self._errors_explained(url, "fetched"):
            for _ in range(MAX_REDIRECTS + 1):
                _refuse_private_address(target)
                async with self._session.get(target, allow_redirects=False) as response:
                    location = response.headers.get("location")
                    if response.status not in REDIRECT_STATUSES or location is None:
                        await self._read(response, on_chunk)
                        return str(response.content_type)
                    target = self._allowed(str(target.join(URL(location))))
        raise InvalidInput(
            f"{self._what} at {_shown(url)} has more than {MAX_REDIRECTS} redirects.", self._param
        )

    async def put(self, url: str, content: AsyncIterator[bytes], size_bytes: int) -> None:
        """Upload content of a known size by PUT, without redirects.

        No content type is sent, because an unsigned one makes a presigned URL invalid.

        Raises:
            InvalidInput: the URL is not allowed, does not answer, or rejects the upload.
        """
        target = self._allowed(url)
        async with self._errors_explained(url, "written"):
            _refuse_private_address(target)
            headers = {"content-length": str(size_bytes)}
            if (target.host or "").endswith(AZURE_HOST):
                headers["x-ms-blob-type"] = "BlockBlob"
            async with self._session.put(
                target,
                data=content,
                headers=headers,
                skip_auto_headers=("content-type",),
                allow_redirects=False,
            ) as response:
                if response.status not in WRITTEN_STATUSES:
                    raise _UnexpectedResponse(f"the server answered {response.status}")

    def _allowed(self, url: str) -> URL:
        return allowed_url(url, self._domains, what=self._what, param=self._param)

    @contextlib.asynccontextmanager
    async def _errors_explained(self, url: str, done: str) -> AsyncIterator[None]:
        """Limit the time of the block, and turn its errors into InvalidInput."""
        import aiohttp

        what = f"{self._what} at {_shown(url)}"
        try:
            async with AwakeTimeout(self._timeout_seconds):
                yield
        except _PrivateAddress as error:
            raise InvalidInput(f"{what}: {error}.", self._param) from error
        except TimeoutError as error:
            raise InvalidInput(
                f"{what} was not {done} in {self._timeout_seconds:g} s.", self._param
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            not_found = isinstance(error, _UnexpectedResponse) and error.not_found
            kind = UrlNotFound if not_found else InvalidInput
            raise kind(f"{what} cannot be {done}: {_reason(error)}.", self._param) from error

    async def _read(self, response: Any, on_chunk: Callable[[bytes], object]) -> None:
        if response.status != 200:
            not_found = response.status in NOT_FOUND_STATUSES
            raise _UnexpectedResponse(f"the server answered {response.status}", not_found)
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            self._left_bytes -= len(chunk)
            if self._left_bytes < 0:
                raise _UnexpectedResponse(f"it has more than {self._max_bytes} bytes")
            on_chunk(chunk)


def allowed_url(url: str, domains: Collection[str], *, what: str, param: str = "url") -> URL:
    """Parse a URL and check its scheme, host and domain; empty `domains` allow all.

    Raises:
        InvalidInput: the URL is invalid or not allowed.
    """
    try:
        parsed = URL(url)
        host = parsed.host or ""
    except ValueError as error:
        raise InvalidInput(f"{_shown(url)} is not a URL.", param) from error
    has_odd_characters = any(each.isspace() or each == "\\" or each < " " for each in url)
    if parsed.scheme not in ("http", "https") or not host or has_odd_characters:
        raise InvalidInput(f"{_shown(url)} must be an http or https URL.", param)
    if not _is_plain_host(host):
        raise InvalidInput(
            f"{_shown(url)} must have a host name, or an IP address written in full.", param
        )
    if domains and host not in domains and parsed.raw_host not in domains:
        names = ", ".join(sorted(domains))
        raise InvalidInput(f"{what} may come from {names}, not from {host!r}.", param)
    return parsed


def _is_plain_host(host: str) -> bool:
    """Whether a host is unambiguous: a name, or an IP address written in full."""
    if "%" in host:  # an escape, or an IPv6 zone
        return False
    if ":" not in host and not NUMERIC_HOST.fullmatch(host):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
        if any(parsed in network for network in SPECIAL_NETWORKS):
            return False
        if parsed in NAT64:
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
    return parsed.is_global and not parsed.is_multicast


class _UnexpectedResponse(OSError):
    def __init__(self, reason: str, not_found: bool = False) -> None:
        super().__init__(reason)
        self.not_found = not_found


class _PrivateAddress(Exception):
    """The host has a private address."""


def _refuse_private_address(url: URL) -> None:
    """Check a host that is an IP address, for which aiohttp skips the resolver."""
    try:
        public = is_public(url.host or "")
    except ValueError:
        return  # a host name, which the resolver checks
    if not public:
        raise _PrivateAddress(f"{url.host} is not a public address")


def _public_resolver() -> Any:
    from aiohttp.abc import AbstractResolver
    from aiohttp.resolver import ThreadedResolver

    class PublicResolver(AbstractResolver):
        """Resolves host names; rejects those with a private address."""

        def __init__(self) -> None:
            self._resolver = ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> Any:
            addresses = await self._resolver.resolve(host, port, family)
            if not all(is_public(each["host"]) for each in addresses):
                raise _PrivateAddress(f"{host!r} does not resolve to a public address")
            return addresses

        async def close(self) -> None:
            await self._resolver.close()

    return PublicResolver()


def _shown(url: str) -> str:
    plain = USER_INFO.sub("//", url.partition("?")[0])
    if len(plain) > MAX_SHOWN_CHARACTERS:
        plain = f"{plain[:MAX_SHOWN_CHARACTERS]}…"
    return repr(plain)


def _reason(error: Exception) -> str:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the host name {error.host!r} cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{error.host}:{error.port} cannot be reached"
    return str(error) if isinstance(error, _UnexpectedResponse) else type(error).__name__
