"""Asking the public web: never what only this machine, or its network, reaches.

A name is looked up once, by the resolver in here, and the connection goes to the very address that
was judged: a name server that answers otherwise a moment later changes nothing. A redirect is
followed by hand, for it is an address like the first. No proxy is asked and no cookie kept. Errors
show no query and no user of an address: they may be as good as a key.
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any

from yarl import URL

from handler.errors import InvalidInput, UrlNotFound

MOST_REDIRECTS = 3
CHUNK_BYTES = 1 << 16
REDIRECTS = frozenset({301, 302, 303, 307, 308})
GONE = frozenset({404, 410})
WRITTEN = frozenset({200, 201, 204})
SHOWN_CHARACTERS = 100
USER = re.compile(r"(?<=:)//[^/\\]*@")  # a name and a password
COULD_NOT = {"fetched": "did not come", "written": "was not taken"}
AZURE = ".blob.core.windows.net"  # its storage has to be told what to make
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# What holds another address, or is no longer in use.
ODD = [ipaddress.ip_network(text) for text in ("2002::/16", "::/96", "64:ff9b:1::/48", "fec0::/10")]


@dataclass(frozen=True)
class FetchedFile:
    """What an address gave.

    Attributes:
        content: its bytes.
        content_type: such as `image/png`, without parameters.
    """

    content: bytes
    content_type: str


class SafeFetch:
    """The public web, as far as it may be read.

    Args:
        domains: that are allowed; none of them means all.
        most_bytes: of all that is fetched together.
        seconds: for each.
        what: the thing's name in errors, such as "Media".
        param: the field at fault in errors.

    Use as `async with SafeFetch(…) as web`.
    """

    def __init__(
        self,
        domains: Collection[str],
        most_bytes: int,
        seconds: float,
        what: str,
        param: str = "url",
    ) -> None:
        self._domains = domains
        self._most_bytes = self._left_bytes = most_bytes
        self._seconds = seconds
        self._what = what
        self._param = param

    async def __aenter__(self) -> "SafeFetch":
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

    async def get(self, address: str) -> FetchedFile:
        """Return what is at an address.

        Raises:
            InvalidInput: it may not be asked, does not answer, or has too much to say.
        """
        content = bytearray()
        content_type = await self.fetch(address, content.extend)
        return FetchedFile(bytes(content), content_type)

    async def fetch(self, address: str, take: Callable[[bytes], object]) -> str:
        """Hand what is at an address to `take`, in pieces; return its content type.

        Raises:
            UrlNotFound: there is nothing.
            InvalidInput: it may not be asked, does not answer, or has too much to say.
        """
        url = self._allowed(address)
        async with self._named(address, "fetched"):
            for _ in range(MOST_REDIRECTS + 1):
                _refuse_private_literal(url)
                async with self._session.get(url, allow_redirects=False) as response:
                    location = response.headers.get("location")
                    if response.status not in REDIRECTS or location is None:
                        await self._read(response, take)
                        return str(response.content_type)
                    url = allowed(
                        str(url.join(URL(location))), self._domains, self._what, self._param
                    )
        raise InvalidInput(
            f"{self._what} at {_shown(address)}: more than {MOST_REDIRECTS} redirects.", self._param
        )

    async def put(self, address: str, content: AsyncIterator[bytes], size_bytes: int) -> None:
        """PUT what is as large as said to an address; no redirect is followed.

        No content type is sent: one that was not signed makes a signature wrong.

        Raises:
            InvalidInput: it may not be asked, does not answer, or does not take it.
        """
        url = self._allowed(address)
        async with self._named(address, "written"):
            _refuse_private_literal(url)
            headers = {"content-length": str(size_bytes)}
            if (url.host or "").endswith(AZURE):
                headers["x-ms-blob-type"] = "BlockBlob"
            async with self._session.put(
                url,
                data=content,
                headers=headers,
                skip_auto_headers=("content-type",),
                allow_redirects=False,
            ) as response:
                if response.status not in WRITTEN:
                    raise _Refusal(f"the answer is {response.status}")

    def _allowed(self, address: str) -> URL:
        return allowed(address, self._domains, self._what, self._param)

    @contextlib.asynccontextmanager
    async def _named(self, address: str, done: str) -> AsyncIterator[None]:
        """Bound the time of what is inside, and say what goes wrong there in one sentence."""
        import aiohttp

        what = f"{self._what} at {_shown(address)}"
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except _Private as error:
            raise InvalidInput(f"{what}: {error}.", self._param) from error
        except TimeoutError as error:
            raise InvalidInput(
                f"{what} {COULD_NOT[done]} in {self._seconds:g} s.", self._param
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            kind = UrlNotFound if isinstance(error, _Refusal) and error.gone else InvalidInput
            raise kind(f"{what} cannot be {done}: {_reason(error)}.", self._param) from error

    async def _read(self, response: Any, take: Callable[[bytes], object]) -> None:
        if response.status != 200:
            raise _Refusal(f"the answer is {response.status}", response.status in GONE)
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            self._left_bytes -= len(chunk)
            if self._left_bytes < 0:
                raise _Refusal(f"there are more than {self._most_bytes} bytes")
            take(chunk)


def allowed(address: str, domains: Collection[str], what: str, param: str = "url") -> URL:
    """Return an address of the web that is on an allowed domain; none of them means all.

    Raises:
        InvalidInput: it is not.
    """
    try:
        url = URL(address)
        host = url.host or ""
    except ValueError as error:
        raise InvalidInput(f"{_shown(address)} is no address.", param) from error
    odd = any(each.isspace() or each == "\\" or each < " " for each in address)
    if url.scheme not in ("http", "https") or not host or odd:
        raise InvalidInput(f"{_shown(address)} is no address of the web: http or https.", param)
    if domains and host not in domains and url.raw_host not in domains:
        names = ", ".join(sorted(domains))
        raise InvalidInput(f"{what} may come from {names}, not from {host!r}.", param)
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
    """What the other side says is not what was asked for; `gone` is that there is nothing."""

    def __init__(self, reason: str, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


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
    plain = USER.sub("//", address.partition("?")[0])
    cut = plain if len(plain) <= SHOWN_CHARACTERS else f"{plain[:SHOWN_CHARACTERS]}…"
    return repr(cut)


def _reason(error: Exception) -> str:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {error.host!r} is not known"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{error.host}:{error.port} cannot be reached"
    return str(error) if isinstance(error, _Refusal) else type(error).__name__
