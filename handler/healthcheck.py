"""What the image's HEALTHCHECK runs: where the worker serves HTTP, does it answer a ping?

It runs every half a minute, so it does not import `Settings`, and says once more which port they
mean. The queue and the local job have none, and are as healthy as their process.
"""

import http.client
import os
import sys
from collections.abc import Mapping

from handler.settings.variables import clean_value, is_no_value, is_zero

TIMEOUT_SECONDS = 4.0
HERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # what stands for every address
HEALTHY = (200, 204)  # serving, starting


def is_healthy(environ: Mapping[str, str]) -> bool:
    """Ask `/ping` on PORT_HEALTH or PORT, if the environment says that HTTP is served."""
    cleaned = {name: clean_value(value) for name, value in environ.items()}
    environ = {n: value for n, value in cleaned.items() if not is_no_value(value)}
    if not _serves_http(environ):
        return True
    usual = "80" if environ.get("RUNPOD_ENDPOINT_ID") else "8000"
    port = _port(environ, "PORT_HEALTH") or _port(environ) or usual
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
    return not environ.get("RUNPOD_WEBHOOK_GET_JOB") and bool(_port(environ))


def _host(environ: Mapping[str, str]) -> str:
    host = environ.get("HTTP_HOST", "")
    return HERE.get(host, host)


def _port(environ: Mapping[str, str], name: str = "PORT") -> str:
    port = environ.get(name, "")
    return "" if port.startswith("tcp://") or is_zero(port) else port  # a link to another service


if __name__ == "__main__":
    sys.exit(not is_healthy(os.environ))
