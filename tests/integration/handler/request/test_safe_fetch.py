"""What is fetched comes from the public web, from the address that was judged.

The servers here are real and on this machine, so in those tests 127.0.0.1 counts as safe_fetch.
"""

import asyncio
import re
import socket
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from handler import PRODUCT
from handler.errors import InvalidInput, UrlNotFound
from handler.request import safe_fetch
from handler.request.safe_fetch import SafeFetch, is_public

PICTURE = b"\x89PNG" + bytes(1000)


@asynccontextmanager
async def server(routes):
    app = web.Application()
    for path, answer in routes.items():
        app.router.add_route("*", path, answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def picture(_):
    return web.Response(body=PICTURE, content_type="image/png")


def get(address, routes=None, domains=(), most_bytes=10_000, seconds=60.0):
    async def run():
        reading = SafeFetch(domains, max_bytes=most_bytes, timeout_seconds=seconds, what="Media")
        async with server(routes or {}) as port, reading as there:
            return await there.get(address.replace("PORT", str(port)))

    return asyncio.run(run())


@pytest.fixture
def here_is_public(monkeypatch):
    monkeypatch.setattr(
        safe_fetch, "is_public", lambda text: text == "127.0.0.1" or is_public(text)
    )


@pytest.fixture
def names(monkeypatch):
    """Answer for names of our own; return what was asked for."""
    known, asked = {}, []
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *rest, **options):
        if host not in known:
            return real(host, port, *rest, **options)
        asked.append(host)
        found = known[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known, asked


def test_what_is_there_comes_with_its_type(here_is_public):
    """The bytes as they are."""
    fetched = get("http://127.0.0.1:PORT/x", {"/x": picture})
    assert (fetched.content, fetched.content_type) == (PICTURE, "image/png")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.8", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("[::1]", "[::ffff:127.0.0.1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
        "[::127.0.0.1]",
        *("[::ffff:7f00:1]", "[::ffff:224.0.0.1]", "localhost"),
        *("①②⑦.⓪.⓪.①", "127。0。0。1"),
    ],
)
def test_a_private_address_is_refused_however_it_is_written(host):
    """This machine, its network, the cloud's metadata."""
    with pytest.raises(InvalidInput, match="public address"):
        get(f"http://{host}:PORT/x", {"/x": picture})


ODD_ADDRESSES = [
    *("127.1", "2130706433", "0x7f000001", "0x7F.1", "0", "017700000001", "0177.0.0.1"),
    *("127.0.0.1.", "2130706433.", "127.0.0.01", "8.8.8.8.8", "①②⑦.①", "127。1", "a.example.1"),
    *("%31%32%37.0.0.1", "127.0.0.1%2e", "[fe80::1%25lo]", "[2606:4700::1%25lo]"),
]


@pytest.mark.parametrize("host", ODD_ADDRESSES)
def test_an_address_that_is_not_written_in_full_is_refused(host):
    """By the worker itself: a client, or the C library below it, may read it another way."""
    with pytest.raises(InvalidInput, match=r"must have a host name, or an IP address written in"):
        safe_fetch.allowed_url(f"http://{host}/x", (), what="Media")


@pytest.mark.parametrize("host", ODD_ADDRESSES)
def test_a_redirect_to_such_an_address_is_refused(here_is_public, host):
    with pytest.raises(InvalidInput, match=r"must have a host name, or an IP address written in"):
        get("http://127.0.0.1:PORT/x", {"/x": to(f"http://{host}:PORT/y")})


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "[2606:4700::1]", "a.example", "3com.com", "a.0x7g", "xn--9hbcp.example"]
)
def test_a_name_or_a_whole_address_is_allowed(host):
    url = f"https://{host}/x"
    assert str(safe_fetch.allowed_url(url, (), what="Media")) == url


def test_a_host_sees_who_asks(here_is_public):
    """Some answer 403 to a library's own name."""
    asked = []

    async def answer(request):
        asked.append(request.headers["user-agent"])
        return await picture(request)

    get("http://127.0.0.1:PORT/old", {"/old": to("/x"), "/x": answer})
    assert asked == [PRODUCT]


def test_a_name_is_looked_up_once_and_that_address_is_asked(here_is_public, names):
    """A name server that answers otherwise a moment later is not asked again."""
    known, asked = names
    known["a.example"] = [["127.0.0.1"], ["10.0.0.1"]]
    assert get("http://a.example:PORT/x", {"/x": picture}).content == PICTURE
    assert asked == ["a.example"]


def test_a_name_with_a_private_address_beside_a_public_one_is_refused(here_is_public, names):
    """All of its addresses have to be public."""
    names[0]["a.example"] = [["127.0.0.1", "10.0.0.1"]]
    with pytest.raises(InvalidInput, match=r"'a\.example' does not resolve to a public address"):
        get("http://a.example:PORT/x", {"/x": picture})


def to(address):
    async def answer(request):
        raise web.HTTPFound(address.replace("PORT", str(request.url.port)))

    return answer


def test_a_redirect_is_followed(here_is_public):
    """Many a picture has moved."""
    routes = {"/old": to("/new"), "/new": to("http://127.0.0.1:PORT/x"), "/x": picture}
    assert get("http://127.0.0.1:PORT/old", routes).content == PICTURE


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("http://10.0.0.1/x", "10.0.0.1 is not a public address"),
        ("http://localhost:PORT/x", "'localhost' does not resolve to a public address"),
        ("file:///etc/passwd", "'file:///etc/passwd' must be an http or https URL"),
        ("http://b.example/x", "Media may come from 127.0.0.1, localhost, not from 'b.example'."),
        ("/again", "more than 3 redirects"),
    ],
)
def test_a_redirect_is_judged_as_the_first_address(here_is_public, monkeypatch, target, error):
    """It leads nowhere that the request may not name."""
    if "localhost" in target:
        monkeypatch.setattr(safe_fetch, "is_public", lambda text: False)
        monkeypatch.setattr(safe_fetch, "_refuse_private_address", lambda url: None)
    domains = {"127.0.0.1", "localhost"} if "10.0" not in target else ()
    with pytest.raises(InvalidInput) as raised:
        get("http://127.0.0.1:PORT/again", {"/again": to(target)}, domains)
    assert error in str(raised.value)


async def large(_):
    return web.Response(body=bytes(20_000))


async def slow(_):
    await asyncio.Event().wait()


async def gone(_):
    return web.Response(status=404)


@pytest.mark.parametrize(
    ("answer", "seconds", "error"),
    [
        (large, 60, "cannot be fetched: it has more than 10000 bytes."),
        (slow, 0.3, "was not fetched in 0.3 s."),
        (gone, 60, "cannot be fetched: the server answered 404."),
    ],
)
def test_a_failed_download_has_its_reason(here_is_public, answer, seconds, error):
    """With the reason, and nothing of what it was."""
    with pytest.raises(InvalidInput) as raised:
        get("http://127.0.0.1:PORT/x", {"/x": answer}, seconds=seconds)
    assert str(raised.value).endswith(error)


def test_who_does_not_answer_and_who_is_not_known(here_is_public):
    """One sentence each."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"127.0.0.1:{port} cannot be reached"):
            get(f"http://127.0.0.1:{port}/x")
    with pytest.raises(InvalidInput, match=r"the host name 'no\.such\.invalid' cannot be resolved"):
        get("http://no.such.invalid/x")


def put(address, routes=None, seconds=60.0):
    async def content():
        for _ in range(3):
            yield b"x" * 100_000

    async def run():
        writing = SafeFetch(timeout_seconds=seconds, what="The output")
        async with server(routes or {}) as port, writing as there:
            await there.put(address.replace("PORT", str(port)), content(), 300_000)

    asyncio.run(run())


def taking(seen):
    async def take(request):
        seen.update(request.headers, method=request.method, size=0)
        while piece := await request.content.readany():
            seen["size"] += len(piece)
        return web.Response(status=201)

    return {"/x": take}


def test_what_is_put_arrives_whole_with_its_size_and_no_type(here_is_public):
    """A presigned address takes no chunks, and a type that was not signed is refused."""
    seen = {}
    put("http://127.0.0.1:PORT/x?a=%2Fb", taking(seen))
    assert (seen["method"], seen["size"], seen["Content-Length"]) == ("PUT", 300_000, "300000")
    assert "Transfer-Encoding" not in seen
    assert "Content-Type" not in seen


@pytest.mark.parametrize(
    ("host", "kind"),
    [("me.blob.core.windows.net", "BlockBlob"), ("blob.core.windows.net.example", None)],
)
def test_azure_gets_its_blob_type(here_is_public, names, host, kind):
    """It refuses a PUT without this header; nobody else is sent one that was not signed."""
    names[0][host], seen = [["127.0.0.1"]], {}
    put(f"http://{host}:PORT/x", taking(seen))
    assert (seen["size"], seen.get("x-ms-blob-type")) == (300_000, kind)


@pytest.mark.parametrize(
    ("answer", "seconds", "error"),
    [
        (to("/other"), 60, "cannot be written: the server answered 302."),
        (gone, 60, "cannot be written: the server answered 404."),
        (slow, 0.3, "was not written in 0.3 s."),
    ],
    ids=["redirect", "refusal", "silence"],
)
def test_a_failed_upload_has_its_reason(here_is_public, answer, seconds, error):
    """A redirect is a refusal; the error shows neither password nor signature."""
    with pytest.raises(InvalidInput) as raised:
        put("http://user:secret@127.0.0.1:PORT/x?signature=secret", {"/x": answer}, seconds)
    shown = re.sub(r":\d+/", ":PORT/", str(raised.value))
    assert shown == f"The output at 'http://127.0.0.1:PORT/x' {error}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.8"])
def test_a_private_address_is_not_written_to(host):
    """It is judged as one that is read from."""
    with pytest.raises(InvalidInput, match="a public address"):
        put(f"http://{host}:PORT/x", {"/x": picture})


def test_nothing_at_an_address_is_an_error_of_its_own(here_is_public):
    """For those to whom that is no error."""
    with pytest.raises(UrlNotFound):
        get("http://127.0.0.1:PORT/x", {"/x": gone})


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("file:///etc/passwd", "'file:///etc/passwd' must be an http or https URL."),
        ("/dev/zero", "'/dev/zero' must be an http or https URL"),
        ("picture.png", "'picture.png' must be an http or https URL"),
        ("\\\\host\\share", "must be an http or https URL"),
        ("ftp://a.example/x", "'ftp://a.example/x' must be an http or https URL"),
        ("http:\\\\a.example", "must be an http or https URL"),
        ("http://a.example\\@b.example/", "is not a URL"),
        ("https:///x", "'https:///x' must be an http or https URL"),
        ("http://[::1", "'http://[::1' is not a URL."),
        ("https://b.example/x", "Media may come from a.example, not from 'b.example'."),
        ("https://a.example.b.example/x", "Media may come from a.example, not from"),
        ("https://a.example@b.example/x", "Media may come from a.example, not from 'b.example'."),
    ],
)
def test_a_url_that_is_not_public_http_is_refused(url, error):
    """With what would be right."""
    with pytest.raises(InvalidInput) as raised:
        safe_fetch.allowed_url(url, {"a.example"}, what="Media")
    assert error in str(raised.value)
