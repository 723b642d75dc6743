"""The image's HEALTHCHECK: asks `/ping` if the worker serves HTTP.

It runs every 30 seconds, so it finds the port itself and does not import `Settings`. A queue worker
and a local job serve no HTTP and always count as healthy.
"""

import http.client
import os
import sys
from collections.abc import Mapping

from handler.settings.variables import clean_value, is_no_value, is_zero

TIMEOUT_SECONDS = 4.0
LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # by wildcard address
HEALTHY = (200, 204)  # serving, starting


def is_healthy(environ: Mapping[str, str]) -> bool:
    """Return whether `/ping` on PORT_HEALTH or PORT answers; True if no HTTP is served."""
    cleaned = {name: clean_value(value) for name, value in environ.items()}
    environ = {n: value for n, value in cleaned.items() if not is_no_value(value)}
    if not _serves_http(environ):
        return True
    default = "80" if _is_on_platform(environ) else "8000"
    port = _port(environ, "PORT_HEALTH") or _port(environ) or default
    if not port.isdigit():
        return False
    connection = None
    try:
        connection = http.client.HTTPConnection(_host(environ), int(port), timeout=TIMEOUT_SECONDS)
        connection.request("GET", "/ping")
        return connection.getresponse().status in HEALTHY
    except (OSError, http.client.HTTPException):
        return False
    finally:
        if connection is not None:
            connection.close()


def _serves_http(environ: Mapping[str, str]) -> bool:
    mode = environ.get("SERVE_MODE") or "auto"
    if mode != "auto":
        return mode == "http"
    has_http = bool(_port(environ)) or _is_on_platform(environ)
    return not environ.get("RUNPOD_WEBHOOK_GET_JOB") and has_http


def _is_on_platform(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("RUNPOD_ENDPOINT_ID") or environ.get("RUNPOD_POD_ID"))


def _host(environ: Mapping[str, str]) -> str:
    host = environ.get("HTTP_HOST", "")
    return LOOPBACK.get(host, host)


def _port(environ: Mapping[str, str], name: str = "PORT") -> str:
    port = environ.get(name, "")
    return "" if port.startswith("tcp://") or is_zero(port) else port  # a link to another service


if __name__ == "__main__":
    sys.exit(not is_healthy(os.environ))
