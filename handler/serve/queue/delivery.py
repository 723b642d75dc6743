"""The delivery of job outputs: POSTs to the platform, with retries.

It replaces that of the SDK, which retries after a 5xx but loses a chunk when a connection breaks.

Delivery is at least once: a chunk arrives twice if its connection breaks after the platform has
accepted it. The final POST of a job has each chunk once.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from handler.metrics.prometheus import PostOutcome
from handler.serve.queue.connections import ConnectionPool, Headers, PostResponse

log = logging.getLogger(__name__)

# The first two are the SDK's. Three failures in a row come in a bad minute of the platform, and the
# result of a job that nobody can ask for again must outlive them.
RETRY_PAUSES_SECONDS = (2.0, 3.0, 5.0, 8.0, 13.0)
RETRY_STATUSES = frozenset({408, 425, 429})  # and 5xx

REQUEST_ID = "X-Request-ID"
RESULT_HEADERS = (("charset", "utf-8"), ("Content-Type", "application/x-www-form-urlencoded"))
# Headers of the SDK's session: a wrong content type, and compression of bodies that nobody reads.
OMITTED_SESSION_HEADERS = frozenset({"content-type", "accept-encoding"})

OnPost = Callable[[PostOutcome, float, int], None]
"""Called after each POST with its outcome, its seconds and its body bytes."""


class Delivery:
    """Posts results over the keep-alive connections of one event loop.

    Args:
        on_post: called after each POST.
        retry_pauses_seconds: the pause before each retry.
    """

    def __init__(
        self,
        on_post: OnPost = lambda *_: None,
        retry_pauses_seconds: Sequence[float] = RETRY_PAUSES_SECONDS,
    ) -> None:
        self.connections = ConnectionPool()
        self._on_post = on_post
        self._retry_pauses_seconds = retry_pauses_seconds

    async def post(self, url: str, body: bytes, headers: Headers) -> None:
        """POST a result.

        Args:
            url: the URL for the job's stream or final output.
            body: JSON, although the content type is that of a form.
            headers: see `result_headers`.

        Raises:
            aiohttp.ClientError: the platform rejected the result, or every retry failed.
        """
        pauses_seconds = list(self._retry_pauses_seconds)
        had_connection_error = False
        while True:
            started = time.monotonic()
            error = await self._post(url, body, headers)
            retry = error is not None and bool(pauses_seconds) and _is_retryable(error)
            outcome: PostOutcome = "taken" if error is None else "again" if retry else "lost"
            self._on_post(outcome, time.monotonic() - started, len(body))
            if error is None:
                return
            if not retry:
                raise error
            pause_seconds = pauses_seconds.pop(0)
            if isinstance(error, aiohttp.ClientConnectionError) and not had_connection_error:
                # Usually the server has closed an idle keep-alive connection.
                had_connection_error, pause_seconds = True, 0.0
            reason = describe(error)
            log.warning("the POST of a result failed (%s), retry in %g s", reason, pause_seconds)
            await asyncio.sleep(pause_seconds)

    async def _post(self, url: str, body: bytes, headers: Headers) -> aiohttp.ClientError | None:
        try:
            response = await self.connections.post(url, body, headers)
        except aiohttp.ClientConnectionError as error:
            return error
        return None if 200 <= response.status < 300 else _status_error(url, response)


def result_headers(session: aiohttp.ClientSession, job: str) -> Headers:
    """Return the headers of a job's POSTs: those of the SDK's session, and what it adds."""
    omitted = {*OMITTED_SESSION_HEADERS, REQUEST_ID.lower()}
    kept = ((n, v) for n, v in session.headers.items() if n.lower() not in omitted)
    return (*kept, (REQUEST_ID, job), *RESULT_HEADERS)


def _status_error(url: str, response: PostResponse) -> aiohttp.ClientResponseError:
    """Return the error of aiohttp's `raise_for_status`."""
    request = aiohttp.RequestInfo(URL(url), "POST", CIMultiDictProxy(CIMultiDict()), URL(url))
    message = response.reason or "no reason given"
    return aiohttp.ClientResponseError(request, (), status=response.status, message=message)


def _is_retryable(error: aiohttp.ClientError) -> bool:
    """Whether the platform may accept the same body later."""
    if not isinstance(error, aiohttp.ClientResponseError):
        return True
    return error.status >= 500 or error.status in RETRY_STATUSES


def describe(error: aiohttp.ClientError) -> str:
    """Return an error's text for the log, without the URL."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{error.status} {error.message}"
    return str(error) or repr(error)
