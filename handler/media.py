"""Addresses of pictures, sounds and films in a request: which the engine may fetch.

An engine fetches what a message names, from where it runs: whoever may ask could read what only
this machine reaches. So a name has to be one of ALLOWED_MEDIA_DOMAINS, if these are set, and what
it means has to be a public address. A name whose server answers otherwise a moment later, when the
engine asks, is not caught here: set the domains where that matters.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

from handler.errors import InvalidInput

ADDRESS = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]*:)?[/\\]")  # a path is one as well
BYTES = re.compile(r"data:|[A-Za-z0-9+/]{64,}={0,2}$")  # what brings its own, in base64
MOST_HOSTS = 64
LOOK_UP_SECONDS = 10.0
KEYS = frozenset(
    {"image_url", "video_url", "audio_url", "file_url", "url", "image", "video", "audio"}
)
# What says how to answer, and names nothing to be fetched.
NO_MEDIA = frozenset({"tools", "response_format", "structured_outputs", "metadata"})
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# What holds another address, or is no longer in use.
ODD = [ipaddress.ip_network(text) for text in ("2002::/16", "::/96", "64:ff9b:1::/48", "fec0::/10")]


def media_hosts(body: Any, domains: Collection[str]) -> tuple[str, ...]:
    """Return the hosts that a request's media lie on.

    Args:
        body: the request's.
        domains: that are allowed; none of them means all.

    Raises:
        InvalidInput: an address is none of the web, or not on an allowed domain.
    """
    hosts = tuple(dict.fromkeys(_host(address, domains) for address in _addresses(body)))
    if len(hosts) > MOST_HOSTS:
        raise InvalidInput(f"Media of {len(hosts)} hosts are too many: {MOST_HOSTS} are the most.")
    return hosts


async def refuse_private(hosts: Collection[str]) -> None:
    """Let hosts pass that are public.

    Raises:
        InvalidInput: one is not, or is unknown.
    """
    loop = asyncio.get_running_loop()
    for host in hosts:
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise InvalidInput(f"The media's host {host!r} is not known.", "url") from error
        if not all(_is_public(str(entry[4][0])) for entry in found):
            raise InvalidInput(f"The media's host {host!r} is not a public one.", "url")


def _addresses(value: Any) -> Iterator[str]:
    """Walk through a body without recursion: it may be as deep as JSON can be."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            for name, inner in each.items():
                if name in KEYS:
                    yield from _texts(name, inner)
                if name not in NO_MEDIA and isinstance(inner, list | dict):
                    left.append(inner)


def _texts(name: str, value: Any) -> Iterator[str]:
    """Give what an engine would fetch, or open, under one of the names."""
    if isinstance(value, dict):
        value = value.get("url")
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str) or BYTES.match(text):
            continue
        if name != "url" or ADDRESS.match(text):
            yield text


def _host(address: str, domains: Collection[str]) -> str:
    shown = address if len(address) <= 100 else f"{address[:100]}…"
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError as error:
        raise InvalidInput(f"{shown!r} is no address.", "url") from error
    # What different parsers read differently is read by none.
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\\\x00-\x1f]", address):
        raise InvalidInput(f"{shown!r} is no address of the web: http, https or data.", "url")
    if domains and host not in domains:
        raise InvalidInput(
            f"Media may come from {', '.join(sorted(domains))}, not from {host!r}.", "url"
        )
    return host


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped.is_global
        if any(address in network for network in ODD):
            return False
        if address in NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF).is_global
    return address.is_global and not address.is_multicast
