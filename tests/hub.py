"""A model hub in small: what huggingface-hub asks for when it fetches a snapshot.

The real client talks to it. It knows public, gated and private repositories, by their name.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"


class _Handler(BaseHTTPRequestHandler):
    """`server.folder` is the repository's content, `server.asked` every path that was asked for."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        repository = path.removeprefix("/api/models").strip("/")
        allowed = self.headers.get("authorization") == f"Bearer {TOKEN}"
        if repository.startswith("org/gated") and not allowed:
            return self.refuse(401 if "authorization" not in self.headers else 403, "GatedRepo")
        if not repository.startswith(("org/public", "org/gated")):
            return self.refuse(401 if not allowed else 404, "RepoNotFound")
        parts = repository.split("/")
        if path.startswith("/api/models"):
            if len(parts) > 3 and parts[3] not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            names = sorted(
                file.relative_to(self.server.folder).as_posix()
                for file in self.server.folder.rglob("*")
                if file.is_file()
            )
            if "tree" in parts:
                listing = [
                    {"type": "file", "path": name, "size": self.size(name), "oid": self.etag(name)}
                    for name in names
                ]
                return self.send(json.dumps(listing).encode(), {}, body)
            info = {
                "id": "/".join(parts[:2]),
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in names],
            }
            return self.send(json.dumps(info).encode(), {}, body)
        name = "/".join(parts[4:])
        content = (self.server.folder / name).read_bytes()
        headers = {"ETag": f'"{self.etag(name)}"', "X-Repo-Commit": COMMIT}
        return self.send(content, headers, body)

    def size(self, name):
        return (self.server.folder / name).stat().st_size

    def etag(self, name):
        return hashlib.sha1((self.server.folder / name).read_bytes()).hexdigest()

    def refuse(self, status, code):
        self.send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, True, status)

    def send(self, content, headers, body, status=200):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def running_hub(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """Serve `folder` as org/public and org/gated; `.url` is HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.folder, server.asked = folder, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
