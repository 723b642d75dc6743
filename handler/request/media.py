"""Image, audio and video URLs in a request: the worker fetches them, not the engine.

The engine would also fetch private addresses for any caller. The worker accepts only
ALLOWED_MEDIA_DOMAINS, if set, and public addresses (`safe_fetch`), and replaces each URL in the
request by a data URI.
"""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from handler.errors import InvalidInput
from handler.request.safe_fetch import FetchedFile, SafeFetch, allowed_url

BARE_BASE64 = re.compile(r"[A-Za-z0-9+/]{64,}={0,2}$")
MAX_URLS = 64
MAX_MEDIA_BYTES = 100_000_000  # per request
FETCH_TIMEOUT_SECONDS = 30.0
MEDIA_FIELDS = frozenset(
    f"{kind}{suffix}"
    for kind in ("image", "video", "audio")
    for suffix in ("", "s", "_url", "_data")
) | {"file_url"}
BYTES_FIELDS = frozenset({"image_data", "video_data", "audio_data"})
SOURCE = "source"  # the field of an image in /v1/messages
# Fields that hold no media for an engine: tools, schemas, options, texts to be judged.
NO_MEDIA_FIELDS = frozenset({"tools", "arguments", "response_format", "structured_outputs"})
NO_MEDIA_FIELDS |= {"schema", "metadata", "chat_template_kwargs", "mm_processor_kwargs"}
NO_MEDIA_FIELDS |= {"vllm_xargs", "state", "questions"}
WHAT = "Media"


@dataclass(frozen=True)
class RequestMedia:
    """The media of one request.

    Attributes:
        urls: without duplicates.
        domains: the allowed domains; empty for all.
    """

    urls: tuple[str, ...]
    domains: frozenset[str]

    async def inline_into(self, body: bytes) -> bytes:
        """Fetch all media and return the body with data URIs in place of their URLs.

        Raises:
            InvalidInput: a file cannot be fetched.
        """
        by_url = await self.fetched()
        value = json.loads(body)
        for field in _url_fields(value):
            if file := by_url.get(field.url):
                content = base64.b64encode(file.content).decode()
                field.replace(f"data:{file.content_type};base64,{content}")
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

    async def fetched(self) -> dict[str, FetchedFile]:
        """Fetch all media and return them by URL.

        Raises:
            InvalidInput: a file cannot be fetched.
        """
        async with SafeFetch(
            self.domains,
            max_bytes=MAX_MEDIA_BYTES,
            timeout_seconds=FETCH_TIMEOUT_SECONDS,
            what=WHAT,
        ) as web:
            tasks = [asyncio.create_task(web.get(url)) for url in self.urls]
            try:
                files = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        return dict(zip(self.urls, files, strict=True))


def find_media(body: Any, domains: Collection[str]) -> RequestMedia | None:
    """Return the media URLs in a request body, or None if it has none.

    Args:
        body: the decoded body.
        domains: the allowed domains; empty for all.

    Raises:
        InvalidInput: a URL is not http or https, or not on an allowed domain.
    """
    urls = dict.fromkeys(field.url for field in _url_fields(body))
    return media_from_urls(urls, domains) if urls else None


def media_from_urls(urls: Collection[str], domains: Collection[str]) -> RequestMedia:
    """Check media URLs, without fetching them.

    Raises:
        InvalidInput: a URL is not http or https, or not on an allowed domain.
    """
    for url in urls:
        if BARE_BASE64.match(url):
            raise InvalidInput("Base64 media must be a data URI: data:image/png;base64,….")
        allowed_url(url, domains, what=WHAT)
    if len(urls) > MAX_URLS:
        raise InvalidInput(f"A request may have at most {MAX_URLS} media URLs, got {len(urls)}.")
    return RequestMedia(tuple(urls), frozenset(domains))


def base64_to_data_uris(body: Any) -> None:
    """Convert plain base64 in SGLang's own media fields to data URIs, in place.

    SGLang could otherwise read such a string as a file path.
    """
    for field in _url_fields(body):
        if field.name in BYTES_FIELDS and BARE_BASE64.match(field.url):
            field.replace(f"data:application/octet-stream;base64,{field.url}")


@dataclass(frozen=True)
class _UrlField:
    """A URL in a body, with its field's name and a function that replaces it."""

    name: str
    url: str
    replace: Callable[[str], None]


def _url_fields(body: Any) -> Iterator[_UrlField]:
    """Yield the media URLs in a body, without recursion: JSON can be nested deeply."""
    pending = [body]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            for name, inner in value.items():
                if name in MEDIA_FIELDS or (name == SOURCE and _is_image_source(value)):
                    yield from _urls_in(value, name)
                if isinstance(inner, list | dict) and not _has_no_media(value, name):
                    pending.append(inner)


def _is_image_source(block: dict[str, Any]) -> bool:
    return isinstance(block[SOURCE], dict) and block.get("type") != "search_result"


def _has_no_media(block: dict[str, Any], name: str) -> bool:
    is_tool_input = name == "input" and str(block.get("type")).endswith("tool_use")
    return name in NO_MEDIA_FIELDS or is_tool_input


def _urls_in(holder: Any, key: str | int) -> Iterator[_UrlField]:
    """Yield the URLs or paths under a key: one string, or nested lists of strings."""
    name = str(key)
    pending = [(holder, key)]
    while pending:
        holder, key = pending.pop()
        value = holder[key]
        if isinstance(value, list):
            pending += [(value, index) for index in range(len(value))]
        elif isinstance(value, dict):
            pending += [(value, "url")] if "url" in value else []
        elif isinstance(value, str) and not value.startswith("data:"):
            yield _UrlField(name, value, _setter(holder, key))


def _setter(holder: Any, key: str | int) -> Callable[[str], None]:
    def replace(text: str) -> None:
        holder[key] = text

    return replace
