"""Pictures, sounds and films that a request names: the worker brings them, the engine asks nobody.

An engine would fetch from where it runs: whoever may ask could read what only this machine
reaches. So each address has to be on one of ALLOWED_MEDIA_DOMAINS, if these are set, what it names
is fetched from a public address (`public.py`), and stands in the request as a data URI instead.
"""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from handler.errors import InvalidInput
from handler.public import PublicWeb, allowed

ADDRESS = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]*:)?[/\\]")  # a path is one as well
BYTES = re.compile(r"data:|[A-Za-z0-9+/]{64,}={0,2}$")  # what brings its own, in base64
MOST_ADDRESSES = 64
MOST_BYTES = 100_000_000  # of one request
FETCH_SECONDS = 30.0
KEYS = frozenset(
    {"image_url", "video_url", "audio_url", "file_url", "url", "image", "video", "audio"}
)
# What says how to answer, and names nothing to be fetched.
NO_MEDIA = frozenset({"tools", "response_format", "structured_outputs", "metadata"})
WHAT = "Media"


@dataclass(frozen=True)
class Media:
    """What one request wants to be brought.

    Attributes:
        addresses: of the web, each once.
        domains: that are allowed; none of them means all.
    """

    addresses: tuple[str, ...]
    domains: frozenset[str]

    async def brought(self, body: bytes) -> bytes:
        """Return a request's body with the media in it.

        Raises:
            InvalidInput: some cannot be had.
        """
        async with PublicWeb(self.domains, MOST_BYTES, FETCH_SECONDS, WHAT) as web:
            tasks = [asyncio.create_task(web.get(each)) for each in self.addresses]
            try:
                fetched = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        found = dict(zip(self.addresses, fetched, strict=True))
        value = json.loads(body)
        for place in _places(value):
            if one := found.get(place.text):
                text = base64.b64encode(one.content).decode()
                place.put(f"data:{one.content_type};base64,{text}")
        return json.dumps(value, ensure_ascii=False).encode()


@dataclass(frozen=True)
class _Place:
    """Where an address stands in a body."""

    text: str
    put: Callable[[str], None]


def media(body: Any, domains: Collection[str]) -> Media | None:
    """Return what a request's body wants to be brought, None where that is nothing.

    Args:
        body: the request's.
        domains: that are allowed; none of them means all.

    Raises:
        InvalidInput: an address is none of the web, or not on an allowed domain.
    """
    addresses = tuple(dict.fromkeys(place.text for place in _places(body)))
    if not addresses:
        return None
    for address in addresses:
        allowed(address, domains, WHAT)
    if len(addresses) > MOST_ADDRESSES:
        raise InvalidInput(f"{len(addresses)} media are too many: {MOST_ADDRESSES} are the most.")
    return Media(addresses, frozenset(domains))


def _places(value: Any) -> Iterator[_Place]:
    """Walk through a body without recursion: it may be as deep as JSON can be."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            for name, inner in each.items():
                if name in KEYS:
                    yield from _texts(name, each, inner)
                if name not in NO_MEDIA and isinstance(inner, list | dict):
                    left.append(inner)


def _texts(name: str, holder: dict[str, Any], value: Any) -> Iterator[_Place]:
    """Give what an engine would fetch, or open, under one of the names."""
    if isinstance(value, dict):
        holder, key, value = value, "url", value.get("url")
    else:
        key = name
    if isinstance(value, list):
        found = [(text, _setter(value, at)) for at, text in enumerate(value)]
    else:
        found = [(value, _setter(holder, key))]
    for text, put in found:
        if not isinstance(text, str) or BYTES.match(text):
            continue
        if name != "url" or ADDRESS.match(text):
            yield _Place(text, put)


def _setter(holder: Any, key: str | int) -> Callable[[str], None]:
    def put(text: str) -> None:
        holder[key] = text

    return put
