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
from handler.request.safe_fetch import SafeFetch, allowed

BARE = re.compile(r"[A-Za-z0-9+/]{64,}={0,2}$")  # base64 without what it is of
MOST_ADDRESSES = 64
MOST_BYTES = 100_000_000  # of one request
FETCH_SECONDS = 30.0
KEYS = frozenset(
    f"{what}{suffix}" for what in ("image", "video", "audio") for suffix in ("", "_url", "_data")
) | {"file_url"}
SOURCE = "source"  # of a picture, in /v1/messages
# What says how to answer, or was said to a tool, and names nothing to be fetched.
NO_MEDIA = frozenset({"tools", "arguments", "response_format", "structured_outputs", "schema"})
NO_MEDIA |= {"metadata", "chat_template_kwargs", "mm_processor_kwargs", "vllm_xargs"}
WHAT = "Media"


@dataclass(frozen=True)
class RequestMedia:
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
        async with SafeFetch(self.domains, MOST_BYTES, FETCH_SECONDS, WHAT) as web:
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


def media(body: Any, domains: Collection[str]) -> RequestMedia | None:
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
        if BARE.match(address):
            raise InvalidInput("Bytes of media go into a data URI: data:image/png;base64,….")
        allowed(address, domains, WHAT)
    if len(addresses) > MOST_ADDRESSES:
        raise InvalidInput(f"{len(addresses)} media are too many: {MOST_ADDRESSES} are the most.")
    return RequestMedia(addresses, frozenset(domains))


def _places(value: Any) -> Iterator[_Place]:
    """Walk through a body without recursion: it may be as deep as JSON can be."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            for name, inner in each.items():
                if name in KEYS or (name == SOURCE and _is_of_a_picture(each)):
                    yield from _texts(each, name)
                if isinstance(inner, list | dict) and not _is_no_media(each, name):
                    left.append(inner)


def _is_of_a_picture(block: dict[str, Any]) -> bool:
    return isinstance(block[SOURCE], dict) and block.get("type") != "search_result"


def _is_no_media(block: dict[str, Any], name: str) -> bool:
    """Whether an engine reads nothing of what stands under a name, such as a tool's input."""
    return name in NO_MEDIA or (name == "input" and str(block.get("type")).endswith("tool_use"))


def _texts(holder: Any, key: str | int) -> Iterator[_Place]:
    """Give what an engine would fetch, or open, under a key: one text, or many however nested."""
    left = [(holder, key)]
    while left:
        holder, key = left.pop()
        value = holder[key]
        if isinstance(value, list):
            left += [(value, at) for at in range(len(value))]
        elif isinstance(value, dict):
            left += [(value, "url")] if "url" in value else []
        elif isinstance(value, str) and not value.startswith("data:"):
            yield _Place(value, _setter(holder, key))


def _setter(holder: Any, key: str | int) -> Callable[[str], None]:
    def put(text: str) -> None:
        holder[key] = text

    return put
