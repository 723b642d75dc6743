"""The worker fetches a request's media; the engine fetches nothing."""

import asyncio
import base64
import json
import subprocess
import zlib

import pytest

from handler.errors import InvalidInput
from handler.request import safe_fetch
from handler.request.media import MAX_URLS, RequestMedia, find_media
from handler.request.parse import RequestParser
from handler.request.safe_fetch import is_public
from tests.integration.handler.request.test_safe_fetch import PICTURE, server
from tests.integration.handler.request.test_safe_fetch import picture as answers

NONE = frozenset()


def picture(url):
    return {"messages": [{"content": [{"type": "image_url", "image_url": {"url": url}}]}]}


SHAPES = {
    "chat": lambda url: picture(url),
    "text": lambda url: {
        "messages": [{"content": [{"type": "image_url", "image_url": url}]}],
    },
    "video": lambda url: {
        "messages": [{"content": [{"type": "video_url", "video_url": {"url": url}}]}]
    },
    "responses": lambda url: {
        "input": [{"content": [{"type": "input_image", "image_url": url}]}],
    },
    "messages": lambda url: {"messages": [{"content": [{"source": {"type": "url", "url": url}}]}]},
    "rerank": lambda url: {"documents": [{"image": url}]},
    "list": lambda url: {"messages": [{"video": [url, url]}]},
    "several chats": lambda url: {"messages": [picture(url)["messages"]] * 2},
    "rerank's parts": lambda url: {"documents": [[{"type": "image_url", "image_url": url}]]},
    "v2/embed": lambda url: {"images": [url]},
    "v2/embed's inputs": lambda url: {
        "inputs": [{"content": [{"type": "image_url", "image_url": {"url": url}}]}]
    },
    "systemone": lambda url: {"state": "?", "videos": [url], "audio": [url]},
    "decisions": lambda url: {"images": [{"type": "image_url", "image_url": {"url": url}}]},
    "SGLang's generate": lambda url: {"text": ["a"], "video_data": [url], "audio_data": url},
    "SGLang's embeddings": lambda url: {"input": [{"text": "a", "image": url}]},
    "SGLang's classify": lambda url: {"text": "<image>", "image_data": [[url, {"url": url}]]},
    "a tool's result": lambda url: {
        "messages": [
            {"content": [{"type": "tool_result", "content": [{"source": {"url": url}}]}]},
        ]
    },
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_where_a_request_names_media(shape):
    """In the shapes of all routes."""
    url = "https://a.example/x.png"
    assert find_media(shape(url), ()) == RequestMedia((url,), NONE)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_media_stand_in_the_request_instead_of_their_address(shape, monkeypatch):
    """As a data URI, wherever the address stood; the rest stays as it is."""
    monkeypatch.setattr(
        safe_fetch, "is_public", lambda text: text == "127.0.0.1" or is_public(text)
    )

    async def run():
        async with server({"/x": answers}) as port:
            body = shape(f"http://127.0.0.1:{port}/x") | {"seed": 2**70, "user": "Zoë"}
            return await find_media(body, ()).inline_into(json.dumps(body).encode())

    brought = json.loads(asyncio.run(run()))
    uri = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    assert brought == shape(uri) | {"seed": 2**70, "user": "Zoë"}


def test_one_that_cannot_be_had_fails_the_request(monkeypatch):
    """With its address."""

    async def run():
        async with server({}) as port:
            url = f"http://127.0.0.1:{port}/x"
            await RequestMedia((url,), NONE).inline_into(json.dumps(picture(url)).encode())

    with pytest.raises(InvalidInput, match=r"127\.0\.0\.1 is not a public address"):
        asyncio.run(run())


@pytest.mark.parametrize(
    "body",
    [
        picture("data:image/png;base64,AAAA"),
        {"documents": [{"url": "a name of its own", "text": "x"}]},
        {"messages": [{"content": "see https://a.example/x.png"}]},
        {"tools": [{"function": {"parameters": {"image": "https://a.example"}}}]},
        {
            "messages": [
                {"content": [{"type": "tool_use", "input": {"image": "https://a.example"}}]}
            ]
        },
        {"messages": [{"content": [{"type": "search_result", "source": {"url": "https://a/b"}}]}]},
        {"messages": [{"tool_calls": [{"function": {"arguments": {"image": "a cat"}}}]}]},
        {"documents": [{"title": "x", "text": "y", "url": "https://a.example/page"}]},
        {"input": [{"annotations": [{"type": "url_citation", "url": "https://a.example"}]}]},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"text": {"format": {"schema": {"default": {"image": "none"}}}}},
        {"mm_processor_kwargs": {"video": "fast"}},
        {"state": {"image": "broken"}, "questions": {"a": {"criteria": {"video": "yes"}}}},
        {"prompt": "https://a.example"},
    ],
)
def test_what_is_no_address_of_media(body):
    """A text about one, a tool's schema, and what brings its own bytes."""
    assert find_media(body, ()) is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("A" * 100 + "=", r"Base64 media must be a data URI: data:image/png;base64,…\."),
        ("/" * 64 + "etc/passwd", r"Base64 media must be a data URI"),
        ("/etc/passwd", r"'/etc/passwd' must be an http or https URL\."),
        (" DATA:image/png;base64,AAAA", "must be an http or https URL"),
    ],
)
def test_what_an_engine_would_open_is_refused(text, error):
    """SGLang takes what is no address for a path, and base64 may look like one."""
    for body in (picture(text), {"image_data": text}, {"input": [{"image": text}]}):
        with pytest.raises(InvalidInput, match=error):
            find_media(body, ())


def test_plain_base64_in_sglangs_own_input_is_marked_as_such():
    """It is never taken for a path, as short ones and those elsewhere might be."""
    data, uri = "A" * 100, "data:application/octet-stream;base64," + "A" * 100
    paths = {"/generate": frozenset({"text"})}
    parser = RequestParser(("m",), "org/m", paths)
    body = {"text": "a", "image_data": [data, [{"url": data}]], "audio_data": data}
    job = parser.parse_job({"id": "j", "input": {"route": "/generate", "body": body}})
    marked = {"text": "a", "image_data": [uri, [{"url": uri}]], "audio_data": uri}
    assert json.loads(job.request.body) == marked
    for text in ("A" * 60, "/etc/passwd"):
        bad = {"route": "/generate", "body": {"text": "a", "image_data": text}}
        with pytest.raises(InvalidInput, match="must be an http or https URL"):
            parser.parse_job({"id": "j", "input": bad})


def test_too_many_are_refused():
    """Before the first is fetched."""
    body = {"image_data": [{"url": f"https://a.example/{n}"} for n in range(MAX_URLS + 1)]}
    with pytest.raises(InvalidInput, match="A request may have at most 64 media URLs, got 65"):
        find_media(body, ())


def test_a_request_carries_what_is_to_be_brought():
    """Jobs and calls over HTTP alike."""
    domains = frozenset({"a.example"})
    parser = RequestParser(("m",), "org/m", {}, media_domains=domains)
    body = picture("https://a.example/x")
    job = parser.parse_job({"id": "j", "input": {"route": "chat/completions", "body": body}})
    media = RequestMedia(("https://a.example/x",), domains)
    assert job.request.prepare_body.__self__ == media
    with pytest.raises(InvalidInput, match="Media may come from "):
        parser.parse_job({"id": "j", "input": picture("http://b.example/")})
    with pytest.raises(InvalidInput, match="must be an http or https URL"):
        parser.parse_job({"id": "j", "input": picture("file:///etc/passwd")})


def png():
    """Return a picture of one red pixel."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    head = (1).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    pixel = zlib.compress(bytes([0, 255, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


READS = {
    "vllm": "from vllm.multimodal.media.connector import MediaConnector as M; "
    "read = M().fetch_image",
    "sglang": "from sglang.srt.utils.common import load_image; "
    "read = lambda uri: load_image(uri)[0].convert('RGB')",
}


@pytest.mark.parametrize("engine", READS)
def test_an_engine_reads_what_was_brought(engine):
    """Their own loaders, each in its own environment; SGLang guesses what has no type."""
    python = ".venv/bin/python" if engine == "vllm" else ".venv-sglang/bin/python"
    types = {"vllm": ["image/png"], "sglang": ["image/png", "application/octet-stream"]}[engine]
    uris = [f"data:{each};base64,{base64.b64encode(png()).decode()}" for each in types]
    code = (
        f"import gc; gc.disable(); {READS[engine]}; "
        f"[print(read(uri).getpixel((0, 0))) for uri in {uris!r}]"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-len(uris) :] == ["(255, 0, 0)"] * len(uris), done.stderr
