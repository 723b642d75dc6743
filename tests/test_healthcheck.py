"""The image's HEALTHCHECK asks the HTTP front door, and only where there is one."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from handler.healthcheck import is_healthy

QUEUE = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:9/job-take/$ID"}


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


@pytest.mark.parametrize("environ", [{}, QUEUE, {"PORT": "9"}, {"PORT": "tcp://10.0.0.1:80"}])
def test_without_the_http_door_nothing_is_asked(environ):
    """Nothing answers on port 9."""
    assert is_healthy(environ)


@pytest.mark.parametrize("port", ["9", "tcp://10.0.0.1:80"])
def test_no_answer_is_unhealthy(port):
    """Nothing answers on port 9, and what Kubernetes calls a PORT is none."""
    assert not is_healthy({"SERVE_MODE": "http", "PORT": port})
