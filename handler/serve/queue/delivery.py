"""A POST of a job's output to the platform, sent again where that may help.

The SDK wraps each POST in aiohttp-retry, which knows what to do with a 5xx and lets a broken
connection pass: that chunk of a stream was lost.

A chunk arrives at least once: one that the platform took just before the connection broke is sent
again. The job's end has each chunk once in any case.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from handler.metrics.prometheus import PostOutcome
from handler.serve.queue.connections import Answer, Connections

log = logging.getLogger(__name__)

PAUSES_SECONDS = (2.0, 3.0)  # then it is given up: as many and as long as the SDK's
HEADERS = (("charset", "utf-8"), ("Content-Type", "application/x-www-form-urlencoded"))
# Of the SDK's session. Its content type is another's, and an answer's body is not looked at.
LEFT_OUT = frozenset({"content-type", "accept-encoding"})

AGAIN = frozenset({408, 425, 429})  # with 5xx: the same body may be taken later

OnPost = Callable[[PostOutcome, float, int], None]
"""Called after each POST with its outcome, its seconds and the bytes of its body."""


class Delivery:
    """Posts results for one event loop, on connections that stay open.

    Args:
        on_post: called after each POST.
    """

    def __init__(self, on_post: OnPost = lambda *_: None) -> None:
        self.connections = Connections()
        self._on_post = on_post

    async def transmit(self, session: aiohttp.ClientSession, url: str, data: str) -> None:
        """POST a result; in place of `runpod.serverless.modules.rp_http._transmit`.

        Args:
            session: the SDK's, with the headers that the platform wants.
            url: of the job's stream or of its end.
            data: JSON, whatever the content type says.

        Raises:
            aiohttp.ClientError: the platform refuses it, or has not answered each time.
        """
        body = data.encode("utf-8", "surrogatepass")
        named = [(n, v) for n, v in session.headers.items() if n.lower() not in LEFT_OUT]
        headers = (*named, *HEADERS)
        broken = False
        for pause_seconds in (*PAUSES_SECONDS, None):
            failure: aiohttp.ClientError | None = None
            began = time.monotonic()
            try:
                answer = await self.connections.post(url, body, headers)
                failure = _failure(url, answer)
            except aiohttp.ClientConnectionError as error:
                failure = error
            again = pause_seconds is not None and _may_help(failure)
            outcome: PostOutcome = "taken" if failure is None else "again" if again else "lost"
            self._on_post(outcome, time.monotonic() - began, len(body))
            if failure is None:
                return
            if not again or pause_seconds is None:
                raise failure
            if isinstance(failure, aiohttp.ClientConnectionError) and not broken:
                # Most often one that the other side closed while nothing was sent.
                broken, pause_seconds = True, 0.0
            said = _said(failure)
            log.warning("a result was not taken (%s), again in %g s", said, pause_seconds)
            await asyncio.sleep(pause_seconds)


def _failure(url: str, answer: Answer) -> aiohttp.ClientResponseError | None:
    """Return what the SDK expects of aiohttp, unless the result was taken."""
    if 200 <= answer.status < 300:
        return None
    asked = aiohttp.RequestInfo(URL(url), "POST", CIMultiDictProxy(CIMultiDict()), URL(url))
    return aiohttp.ClientResponseError(
        asked, (), status=answer.status, message=answer.reason or "not taken"
    )


def _may_help(failure: aiohttp.ClientError | None) -> bool:
    """Whether to send it again: the same body would be refused again."""
    if not isinstance(failure, aiohttp.ClientResponseError):
        return True
    return failure.status >= 500 or failure.status in AGAIN


def _said(failure: aiohttp.ClientError) -> str:
    """Say it without the address, which a log need not have."""
    if isinstance(failure, aiohttp.ClientResponseError):
        return f"{failure.status} {failure.message}"
    return str(failure) or repr(failure)
