"""Media are fetched from the public web and from nowhere else."""

import asyncio
import socket

import pytest

from handler.errors import InvalidInput
from handler.job import JobReader
from handler.media import media_hosts, refuse_private


def picture(url):
    return {"messages": [{"content": [{"type": "image_url", "image_url": {"url": url}}]}]}


@pytest.mark.parametrize(
    "body",
    [
        picture("https://a.example/x.png"),
        {"messages": [{"content": [{"type": "image_url", "image_url": "https://a.example/x"}]}]},
        {
            "messages": [
                {"content": [{"type": "video_url", "video_url": {"url": "http://a.example"}}]}
            ]
        },
        {"input": [{"content": [{"type": "input_image", "image_url": "https://a.example/x"}]}]},
        {"messages": [{"content": [{"source": {"type": "url", "url": "https://a.example/"}}]}]},
        {"documents": [{"image": "https://A.example:8443/x"}]},
        {"messages": [{"video": ["https://a.example/1", "https://a.example/2"]}]},
    ],
    ids=["chat", "text", "video", "responses", "messages", "rerank", "list"],
)
def test_where_a_request_names_media(body):
    """In the shapes of all routes."""
    assert media_hosts(body, ()) == ("a.example",)


@pytest.mark.parametrize(
    "body",
    [
        picture("data:image/png;base64,AAAA"),
        picture("A" * 100 + "="),
        {"documents": [{"url": "a name of its own", "text": "x"}]},
        {"messages": [{"content": "see https://a.example/x.png"}]},
        {"tools": [{"function": {"parameters": {"url": "https://a.example"}}}]},
        {"prompt": "https://a.example"},
    ],
)
def test_what_is_no_address_of_media(body):
    """A text about one, a tool's schema, and what brings its own bytes."""
    assert media_hosts(body, ()) == ()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "file:///etc/passwd",
            "'file:///etc/passwd' is no address of the web: http, https or data.",
        ),
        ("/dev/zero", "'/dev/zero' is no address of the web"),
        ("picture.png", "'picture.png' is no address of the web"),
        ("\\\\host\\share", "is no address of the web"),
        ("ftp://a.example/x", "'ftp://a.example/x' is no address of the web"),
        ("http:\\\\a.example", "is no address of the web"),
        ("http://a.example\\@b.example/", "is no address of the web"),
        ("https:///x", "'https:///x' is no address of the web"),
        ("http://[::1", "'http://[::1' is no address."),
        ("https://b.example/x", "Media may come from a.example, not from 'b.example'."),
        ("https://a.example.b.example/x", "Media may come from a.example, not from"),
    ],
)
def test_what_may_not_be_fetched(url, said):
    """With what would be right."""
    with pytest.raises(InvalidInput) as raised:
        media_hosts(picture(url), {"a.example"})
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.8", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("::1", "::ffff:127.0.0.1", "fd00::1", "64:ff9b::7f00:1", "::127.0.0.1", "2002:7f00:1::"),
        *("localhost", "127.1", "2130706433"),
    ],
)
def test_a_private_address_is_refused_however_it_is_written(host):
    """This machine, its network, the cloud's metadata."""
    with pytest.raises(InvalidInput, match="is not a public one"):
        asyncio.run(refuse_private([host]))


@pytest.mark.parametrize(
    ("addresses", "refused"),
    [(["93.184.216.34"], False), (["93.184.216.34", "10.0.0.1"], True)],
)
def test_a_name_is_what_it_means(monkeypatch, addresses, refused):
    """All of its addresses have to be public."""

    def getaddrinfo(*_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    if refused:
        with pytest.raises(InvalidInput):
            asyncio.run(refuse_private(["a.example"]))
    else:
        asyncio.run(refuse_private(["a.example"]))


def test_an_unknown_name_is_refused():
    """The engine could not fetch it either."""
    with pytest.raises(InvalidInput, match=r"The media's host 'no\.such\.invalid' is not known"):
        asyncio.run(refuse_private(["no.such.invalid"]))


def test_a_request_carries_the_hosts_that_are_to_be_checked():
    """Jobs and calls over HTTP alike."""
    reader = JobReader(("m",), "org/m", {}, media_domains=frozenset({"a.example"}))
    body = picture("https://a.example/x")
    job = reader.read({"id": "j", "input": {"route": "chat/completions", "body": body}})
    assert job.request.media_hosts == ("a.example",)
    with pytest.raises(InvalidInput, match="Media may come from "):
        reader.read({"id": "j", "input": picture("http://b.example/")})
