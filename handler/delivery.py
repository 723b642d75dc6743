"""A POST of a job's output to the platform, sent again where that may help.

The SDK wraps each POST in aiohttp-retry, which knows what to do with a 5xx and lets a broken
connection pass: that chunk of a stream was lost.

A chunk arrives at least once: one that the platform took just before the connection broke is sent
again. The job's end has each chunk once in any case.
"""

import asyncio
import logging

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from handler.connections import Answer, Connections

log = logging.getLogger(__name__)

PAUSES_SECONDS = (2.0, 3.0)  # then it is given up: as many and as long as the SDK's
HEADERS = (("charset", "utf-8"), ("Content-Type", "application/x-www-form-urlencoded"))
# Of the SDK's session. Its content type is another's, and an answer's body is not looked at.
LEFT_OUT = frozenset({"content-type", "accept-encoding"})


class Delivery:
    """Posts results for one event loop, on connections that stay open."""

    def __init__(self) -> None:
        self.connections = Connections()

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
        for pause_seconds in PAUSES_SECONDS:
            try:
                answer = await self.connections.post(url, body, headers)
                if answer.status < 500:
                    return _taken(url, answer)
                problem = f"{answer.status} {answer.reason}"
            except aiohttp.ClientConnectionError as error:
                problem = str(error) or repr(error)
                if not broken:  # most often one that the other side closed while nothing was sent
                    broken, pause_seconds = True, 0.0
            log.warning("a result was not taken (%s), again in %g s", problem, pause_seconds)
            await asyncio.sleep(pause_seconds)
        _taken(url, await self.connections.post(url, body, headers))


def _taken(url: str, answer: Answer) -> None:
    """Raise what the SDK expects of aiohttp, unless the result was taken."""
    if not 200 <= answer.status < 300:
        asked = aiohttp.RequestInfo(URL(url), "POST", CIMultiDictProxy(CIMultiDict()), URL(url))
        raise aiohttp.ClientResponseError(
            asked, (), status=answer.status, message=answer.reason or "not taken"
        )
