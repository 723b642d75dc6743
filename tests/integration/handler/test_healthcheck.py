"""The image's HEALTHCHECK asks the HTTP front end, if there is one."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from handler import healthcheck
from handler.healthcheck import is_healthy
from handler.settings.environ import load_settings

QUEUE = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:9/job-take/$ID"}


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Docker's own limit is not for a machine that is busy."""
    monkeypatch.setattr(healthcheck, "TIMEOUT_SECONDS", 60)


@pytest.fixture
def answering():
    """A function that starts a server whose /ping has a status; it returns the port."""
    servers = []

    def start(status):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status if self.path == "/ping" else 404)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        return str(server.server_port)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (204, True), (503, False)])
@pytest.mark.parametrize("name", ["PORT", "PORT_HEALTH"])
def test_a_ping_decides(answering, name, status, healthy):
    """204 is still starting, which is no reason to restart it."""
    environ = {"SERVE_MODE": "http", "PORT": "9"} | {name: answering(status)}
    assert is_healthy(environ) is healthy


def test_quotes_and_blank_fields_are_read_as_the_settings_read_them(answering):
    environ = {"SERVE_MODE": "'http'", "PORT": f'"{answering(200)}"', "PORT_HEALTH": "0"}
    assert is_healthy(environ)
    assert not is_healthy(environ | {"PORT_HEALTH": "9"})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        QUEUE,
        QUEUE | {"PORT": "9"},
        {"PORT": "9", "SERVE_MODE": "local"},
        {"PORT": "tcp://10.0.0.1:80"},
        {"PORT": "0"},
        {"PORT": "None", "SERVE_MODE": '"auto"'},
    ],
)
def test_without_the_http_door_nothing_is_asked(environ):
    """Nothing answers on port 9, and what Kubernetes calls a PORT is none."""
    assert is_healthy(environ)


@pytest.mark.parametrize(
    "environ",
    [{"PORT": "9"}, QUEUE | {"PORT": "9", "SERVE_MODE": "http"}, {"PORT": "nine"}],
)
def test_no_answer_is_unhealthy(environ):
    """Nothing answers on port 9."""
    assert not is_healthy(environ)


@pytest.mark.parametrize(
    "environ",
    [
        *({"PORT": port} for port in ("", "8001", "tcp://10.0.0.1:80")),
        {"SERVE_MODE": "http"},
        {"SERVE_MODE": "http", "RUNPOD_ENDPOINT_ID": "e"},
        {"SERVE_MODE": "http", "PORT": "tcp://10.0.0.1:80", "RUNPOD_ENDPOINT_ID": "e"},
        {"RUNPOD_ENDPOINT_ID": "e"},
        {"RUNPOD_POD_ID": "p"},
        {"RUNPOD_POD_ID": "p", "SERVE_MODE": "local"},
        {"RUNPOD_POD_ID": "p", "PORT": "8001"},
        QUEUE | {"RUNPOD_POD_ID": "p"},
        QUEUE | {"PORT": "8001"},
        QUEUE | {"SERVE_MODE": "http"},
    ],
)
def test_it_asks_the_port_that_the_settings_mean(environ, monkeypatch):
    """It says so without them, for the sake of its speed."""
    asked = []

    def connection(host, port, **_):
        assert host == "127.0.0.1"
        asked.append(port)
        raise OSError

    monkeypatch.setattr("http.client.HTTPConnection", connection)
    settings = load_settings(environ)
    assert is_healthy(environ) is (settings.mode != "http")
    assert asked == ([settings.http_port] if settings.mode == "http" else [])


@pytest.mark.parametrize(
    ("host", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1"), ("10.0.0.5", "10.0.0.5")],
)
def test_it_asks_the_address_that_the_front_end_listens_on(host, asked, monkeypatch):
    """An address of its own, or this machine."""
    hosts = []

    def connection(host, *_, **__):
        hosts.append(host)
        raise OSError

    monkeypatch.setattr("http.client.HTTPConnection", connection)
    assert not is_healthy({"PORT": "8001", "HTTP_HOST": host})
    assert hosts == [asked]
