"""Fetching from the public web: never from what only this machine, or its network, reaches.

A name is looked up once, by the resolver in here, and the connection goes to the very address that
was judged: a name server that answers otherwise a moment later changes nothing. A redirect is
followed by hand, for it is an address like the first. No proxy is asked and no cookie kept.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from yarl import URL

from handler.errors import InvalidInput

MOST_REDIRECTS = 3
CHUNK_BYTES = 1 << 16
REDIRECTS = frozenset({301, 302, 303, 307, 308})
SHOWN_CHARACTERS = 100
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# What holds another address, or is no longer in use.
ODD = [ipaddress.ip_network(text) for text in ("2002::/16", "::/96", "64:ff9b:1::/48", "fec0::/10")]


@dataclass(frozen=True)
class Fetched:
    """What an address gave.

    Attributes:
        content: its bytes.
        content_type: such as `image/png`, without parameters.
    """

    content: bytes
    content_type: str


class PublicWeb:
    """The public web, as far as it may be read.

    Args:
        domains: that are allowed; none of them means all.
        most_bytes: of all that is fetched together.
        seconds: for each.
        what: the thing's name in errors, such as "media".

    Use as `async with PublicWeb(…) as web`.
    """

    def __init__(
        self, domains: Collection[str], most_bytes: int, seconds: float, what: str
    ) -> None:
        self._domains = domains
        self._most_bytes = self._left_bytes = most_bytes
        self._seconds = seconds
        self._what = what

    async def __aenter__(self) -> "PublicWeb":
        import aiohttp

        connector = aiohttp.TCPConnector(resolver=_resolver(), use_dns_cache=False, limit=8)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._seconds),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, address: str) -> Fetched:
        """Return what is at an address.

        Raises:
            InvalidInput: it may not be asked, does not answer, or has too much to say.
        """
        import aiohttp

        url = allowed(address, self._domains, self._what)
        try:
            async with asyncio.timeout(self._seconds):
                for _ in range(MOST_REDIRECTS + 1):
                    _refuse_private_literal(url)
                    async with self._session.get(url, allow_redirects=False) as response:
                        location = response.headers.get("location")
                        if response.status not in REDIRECTS or location is None:
                            return await self._read(response)
                        url = allowed(str(url.join(URL(location))), self._domains, self._what)
            raise InvalidInput(
                f"{self._what} at {_shown(address)}: more than {MOST_REDIRECTS} redirects.", "url"
            )
        except _Private as error:
            raise InvalidInput(f"{self._what} at {_shown(address)}: {error}.", "url") from error
        except TimeoutError as error:
            raise InvalidInput(
                f"{self._what} at {_shown(address)} did not come in {self._seconds:g} s.", "url"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise InvalidInput(
                f"{self._what} at {_shown(address)} cannot be fetched: {_reason(error)}.", "url"
            ) from error

    async def _read(self, response: Any) -> Fetched:
        if response.status != 200:
            raise _Refusal(f"the answer is {response.status}")
        content = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            content += chunk
            self._left_bytes -= len(chunk)
            if self._left_bytes < 0:
                raise _Refusal(f"there are more than {self._most_bytes} bytes")
        return Fetched(bytes(content), response.content_type)


def allowed(address: str, domains: Collection[str], what: str) -> URL:
    """Return an address of the web that is on an allowed domain; none of them means all.

    Raises:
        InvalidInput: it is not.
    """
    try:
        url = URL(address)
        host = url.host or ""
    except ValueError as error:
        raise InvalidInput(f"{_shown(address)} is no address.", "url") from error
    odd = any(each.isspace() or each == "\\" or each < " " for each in address)
    if url.scheme not in ("http", "https") or not host or odd:
        raise InvalidInput(f"{_shown(address)} is no address of the web: http or https.", "url")
    if domains and host not in domains and url.raw_host not in domains:
        names = ", ".join(sorted(domains))
        raise InvalidInput(f"{what} may come from {names}, not from {host!r}.", "url")
    return url


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public internet."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped.is_global
        if any(address in network for network in ODD):
            return False
        if address in NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF).is_global
    return address.is_global and not address.is_multicast


class _Refusal(OSError):
    """What the other side has is not taken."""


class _Private(Exception):
    """An address that is not public."""


def _refuse_private_literal(url: URL) -> None:
    """Judge an address that is a number: no resolver sees it."""
    try:
        public = is_public(url.host or "")
    except ValueError:
        return  # a name
    if not public:
        raise _Private(f"{url.host} is not a public address")


def _resolver() -> Any:
    from aiohttp.abc import AbstractResolver
    from aiohttp.resolver import ThreadedResolver

    class Resolver(AbstractResolver):
        """Gives public addresses only; of a name that has others as well, none."""

        def __init__(self) -> None:
            self._names = ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> Any:
            found = await self._names.resolve(host, port, family)
            for each in found:
                if not is_public(each["host"]):
                    raise _Private(f"{host!r} is not a public name")
            return found

        async def close(self) -> None:
            await self._names.close()

    return Resolver()


def _shown(address: str) -> str:
    cut = address if len(address) <= SHOWN_CHARACTERS else f"{address[:SHOWN_CHARACTERS]}…"
    return repr(cut)


def _reason(error: Exception) -> str:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {error.host!r} is not known"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{error.host}:{error.port} cannot be reached"
    return str(error) if isinstance(error, _Refusal) else type(error).__name__
