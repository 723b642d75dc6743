"""How many jobs the SDK's ping can name.

The ping is a GET, and the ids of all running jobs stand in its URL. A server refuses a request line
over 8 kB (nginx, Apache, aiohttp), and a worker whose pings are refused looks dead. To name the
jobs in several pings does not help: it is not known whether the platform takes a job that a ping
does not name for lost.
"""

import logging
from collections.abc import Mapping

from handler.logs import pluralize

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 8190  # Apache and aiohttp; nginx 8192
JOB_ID = "sync-00000000-0000-0000-0000-000000000000-u1"  # the longest ones are those of /runsync
COMMA = "%2C"
LINE = "GET {path}?job_id=&runpod_version=1.12.0rc1 HTTP/1.1\r\n"
PING_URL, POD_ID = "RUNPOD_WEBHOOK_PING", "RUNPOD_POD_ID"


def pinged_jobs(environ: Mapping[str, str]) -> int | None:
    """Return how many jobs a ping can name, None where no pings are sent."""
    url, pod = environ.get(PING_URL), environ.get(POD_ID)
    if not url or not pod:
        return None
    line = LINE.format(path=url.replace("$RUNPOD_POD_ID", pod))  # a proxy gets the whole URL
    return max(1, (MAX_LINE_BYTES - len(line)) // len(JOB_ID + COMMA))


def bounded_jobs(max_jobs: int, *, is_auto: bool, environ: Mapping[str, str]) -> int:
    """Return the concurrent jobs of a queue worker: `auto` stays within what a ping can name."""
    pinged = pinged_jobs(environ)
    if pinged is None or max_jobs <= pinged:
        return max_jobs
    if is_auto:
        log.info(
            "%s at once instead of %d, so that the SDK's ping can name all of them: "
            "MAX_CONCURRENCY=%d overrides this",
            pluralize(pinged, "job"),
            max_jobs,
            max_jobs,
        )
        return pinged
    log.warning(
        "MAX_CONCURRENCY=%d: with more than %s running, the URL of the SDK's ping is longer than "
        "8 kB, which a server may refuse; the platform could then take the worker for dead",
        max_jobs,
        pluralize(pinged, "job"),
    )
    return max_jobs
