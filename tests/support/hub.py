"""A local model hub for the real huggingface-hub client.

It has the routes that a download uses: model info, the tree, and resolve with redirects to another
path for large files, ranges and ETags; and those of the search for names and of access. Names of
repositories may be in any case, or older ones. Repositories may be gated or private; requests can
be made to fail, and responses to be cut, changed or silent. Its chunk storage (xet) never answers.
"""

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.http_server import Server

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"
LARGE_BYTES = 100_000  # from here on a file lies outside of git, as on the real hub (10 MB there)


@dataclass(frozen=True)
class Repository:
    """A folder that is served as a repository.

    Attributes:
        folder: its content.
        gated: only TOKEN's holder has accepted the licence; everybody sees the metadata.
        private: 404 without TOKEN.
        old_name: it was called org/{old_name}.
        licence: on its model card.
        xet: large files are in chunk storage too, which never answers.
    """

    folder: Path
    gated: bool = False
    private: bool = False
    xet: bool = False
    licence: str | None = "apache-2.0"
    old_name: str | None = None

    def names(self) -> list[str]:
        files = (file for file in self.folder.rglob("*") if file.is_file())
        return sorted(file.relative_to(self.folder).as_posix() for file in files)

    def is_large(self, name: str) -> bool:
        path = self.folder / name
        return path.suffix in (".safetensors", ".bin") or path.stat().st_size >= LARGE_BYTES

    def checksum(self, name: str) -> str:
        """The sha256 of a large file, git's own checksum of another."""
        content = (self.folder / name).read_bytes()
        if self.is_large(name):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def entry(self, name: str) -> dict:
        size, checksum = (self.folder / name).stat().st_size, self.checksum(name)
        if not self.is_large(name):
            return {"size": size, "oid": checksum}
        lfs = {"size": size, "sha256": checksum, "oid": checksum, "pointerSize": 134}
        return {"size": size, "oid": "0" * 40, "lfs": lfs}


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose path ends in `name`.

    Attributes:
        method: of the requests.
        status: the response instead,
        headers: with these headers.
        after_bytes: the connection is closed after that many bytes of the body,
        reset: with a reset instead of an orderly close,
        pause_seconds: or only after that time.
        damage: the first byte of the content is changed.
        silent: there is no response, until the hub is closed.
        began: set when the body was cut.
    """

    name: str
    times: int = 1
    method: str = "GET"
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    after_bytes: int | None = None
    reset: bool = False
    pause_seconds: float = 0.0
    damage: bool = False
    silent: bool = False
    began: threading.Event = field(default_factory=threading.Event)


@dataclass
class Hub:
    """A running hub. `asked` lists (method, path, Range header) of every request."""

    url: str
    repositories: dict[str, Repository]
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    token: str = TOKEN
    closed: threading.Event = field(default_factory=threading.Event)

    def find(self, name: str) -> tuple[str, Repository | None]:
        """Return a repository and its name as the hub writes it."""
        for each, repository in self.repositories.items():
            if name.casefold() in (each.casefold(), f"org/{repository.old_name}"):
                return each, repository
        return name, None

    @property
    def cdn(self) -> str:
        """Where large files are: on another host, to which no token goes."""
        return self.url.replace("127.0.0.1", "localhost")

    def ranges(self, name: str) -> list[str | None]:
        """Return the Range header of each GET of a file's content."""
        return [r for method, path, r in self.asked if method == "GET" and path.endswith(name)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("range")))
        fault = self.next_fault(path)
        if fault and fault.status:
            headers = {"X-Error-Message": "broken on purpose", **fault.headers}
            return self.send(fault.status, b"{}", headers)
        if path.startswith("/xet/") or (fault and fault.silent):
            self.hub.closed.wait()
            self.close_connection = True
            return None
        kind = "cdn" if path.startswith("/cdn/") else "api" if path.startswith("/api/") else "file"
        if path == "/api/models":
            return self.search()
        for prefix in ("/cdn", "/api/models", "/api/datasets", "/datasets"):
            path = path.removeprefix(prefix)
        org, name, *rest = [*path.split("/")[1:], ""]
        rest = [part for part in rest if part]
        full_name, repository = self.hub.find(f"{org}/{name}")
        shows_gated = kind == "api" and rest[:1] != ["auth-check"]
        if kind != "cdn" and (refusal := self.refusal(repository, shows_gated)):
            return self.refuse(*refusal)
        if kind == "api":
            return self.api(full_name, repository, rest)
        if kind == "cdn":
            return self.content(repository, "/".join(rest), {}, fault)
        return self.resolve(full_name, repository, rest[1], "/".join(rest[2:]), fault)

    def search(self):
        """Names that contain the text, whatever their case, or those of an owner."""
        query = parse_qs(urlsplit(self.path).query)
        text = query.get("search", [""])[0].casefold()
        shown = [name for name, each in self.hub.repositories.items() if not each.private]
        if owner := query.get("author"):
            shown = [name for name in shown if name.split("/")[0] == owner[0]]
        found = [{"id": name} for name in shown if text in name.casefold()]
        return self.send(200, json.dumps(found).encode(), {})

    def refusal(self, repository, shows_gated):
        """The status and error code that the real hub answers, or None."""
        bearer = self.headers.get("authorization")
        allowed = bearer == f"Bearer {self.hub.token}"
        if bearer and not allowed:
            return 401, None, "Invalid credentials in Authorization header"
        if repository is None or (repository.private and not allowed):
            return 404 if bearer else 401, "RepoNotFound", "Repository not found"
        if repository.gated and not allowed and not shows_gated:
            return 401, "GatedRepo", "Access is restricted"
        return None

    def api(self, name, repository, rest):
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        if rest[:1] == ["auth-check"]:
            return self.send(200, b"", {})
        if rest[:1] == ["xet-read-token"]:
            headers = {
                "X-Xet-Cas-Url": f"{self.hub.url}/xet/",
                "X-Xet-Access-Token": "t",
                "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
            }
            return self.send(200, b"{}", headers)
        entries = {name: repository.entry(name) for name in repository.names()}
        if rest[:1] == ["tree"]:
            tree = [{"type": "file", "path": name, **entry} for name, entry in entries.items()]
            return self.send(200, json.dumps(tree).encode(), {})
        siblings = [
            {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}
            | ({"lfs": entry["lfs"]} if "lfs" in entry else {})
            for name, entry in entries.items()
        ]
        card = {"license": repository.licence} if repository.licence else {}
        info = {"id": name, "sha": COMMIT, "siblings": siblings, "cardData": card}
        info["gated"] = "manual" if repository.gated else False
        return self.send(200, json.dumps(info).encode(), {})

    def resolve(self, repository_name, repository, revision, name, fault):
        if revision not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        if name not in repository.names():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        etag = f'"{repository.checksum(name)}"'
        if not repository.is_large(name):
            return self.content(repository, name, {"ETag": etag, "X-Repo-Commit": COMMIT}, fault)
        headers = {
            "Location": f"{self.hub.cdn}/cdn/{repository_name}/{name}?signature=x",
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str((repository.folder / name).stat().st_size),
            "X-Linked-ETag": etag,
        }
        if repository.xet:
            headers["X-Xet-Hash"] = repository.checksum(name)
            route = f"/api/models/{repository_name}/xet-read-token/{COMMIT}"
            headers["X-Xet-Refresh-Route"] = self.hub.url + route
        return self.send(302, b"", headers)

    def content(self, repository, name, headers, fault):
        body = (repository.folder / name).read_bytes()
        if fault and fault.damage:
            body = bytes([body[0] ^ 1]) + body[1:]
        total, status = len(body), 200
        if asked := self.headers.get("range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) if last else total - 1
            body, status = body[start : end + 1], 206
            headers = {**headers, "Content-Range": f"bytes {start}-{end}/{total}"}
        if fault and fault.after_bytes is not None and self.command == "GET":
            self.begin(status, {**headers, "Content-Length": str(len(body))})
            self.wfile.write(body[: fault.after_bytes])
            self.wfile.flush()
            fault.began.set()
            time.sleep(fault.pause_seconds)
            self.close_connection = True
            if fault.reset:
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.connection.close()
            return None
        return self.send(status, body, headers)

    def next_fault(self, path):
        for fault in self.hub.faults:
            if self.command == fault.method and fault.times and path.endswith(fault.name):
                is_redirect = not path.startswith(("/cdn/", "/api/")) and fault.status is None
                if is_redirect and path.endswith((".safetensors", ".bin")):
                    continue  # its content comes from the other path
                fault.times -= 1
                return fault
        return None

    def refuse(self, status, code, message):
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send(status, b"{}", headers)

    def send(self, status, body, headers):
        self.begin(status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def running_hub(token: str = TOKEN, **repositories: Repository) -> Iterator[Hub]:
    """Serve repositories as org/{name}; `url` is HF_ENDPOINT."""
    named = {f"org/{name.replace('_', '-')}": made for name, made in repositories.items()}
    server = Server(_Handler)
    hub = Hub(server.url, named, token=token)
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    with server.running():
        try:
            yield hub
        finally:
            hub.closed.set()
