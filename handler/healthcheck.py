"""What the image's HEALTHCHECK runs: where the worker serves HTTP, does it answer a ping?

It imports nothing of the worker, for it runs every half a minute. The queue and the local job have
no port, and are as healthy as their process.
"""

import http.client
import os
import sys
from collections.abc import Mapping

TIMEOUT_SECONDS = 4.0
HEALTHY = (200, 204)  # serving, starting
DEFAULT_PORT = "8000"


def is_healthy(environ: Mapping[str, str]) -> bool:
    """Ask `/ping` on PORT_HEALTH or PORT, if the environment says that HTTP is served."""
    if environ.get("SERVE_MODE") != "http":
        return True
    port = environ.get("PORT_HEALTH") or environ.get("PORT") or DEFAULT_PORT
    if not port.isdigit():
        return False
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status in HEALTHY
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_healthy(os.environ))
