"""A POST of a job's output to the platform, sent again where that may help.

The SDK wraps each POST in aiohttp-retry, which knows what to do with a 5xx and lets a broken
connection pass: that chunk of a stream was lost. It also costs a fifth of what a POST does.

A chunk arrives at least once: one that the platform took just before the connection broke is sent
again. The job's end has each chunk once in any case.
"""

import asyncio
import logging

import aiohttp

log = logging.getLogger(__name__)

PAUSES_SECONDS = (2.0, 3.0)  # then it is given up: as many and as long as the SDK's
HEADERS = {"charset": "utf-8", "Content-Type": "application/x-www-form-urlencoded"}


async def transmit(session: aiohttp.ClientSession, url: str, data: str) -> None:
    """POST a result; in place of `runpod.serverless.modules.rp_http._transmit`.

    Args:
        session: the SDK's.
        url: of the job's stream or of its end.
        data: JSON, whatever the content type says.

    Raises:
        aiohttp.ClientError: the platform refuses it, or has not answered each time.
    """
    body = data.encode("utf-8", "surrogatepass")
    broken = False
    for pause_seconds in PAUSES_SECONDS:
        try:
            async with session.post(url, data=body, headers=HEADERS) as answer:
                if answer.status < 500:
                    answer.raise_for_status()
                    await answer.read()
                    return
                problem = f"{answer.status} {answer.reason}"
        except aiohttp.ClientConnectionError as error:
            problem = str(error) or repr(error)
            if not broken:  # most often one that the other side closed while nothing was sent
                broken, pause_seconds = True, 0.0
        log.warning("a result was not taken (%s), again in %g s", problem, pause_seconds)
        await asyncio.sleep(pause_seconds)
    async with session.post(url, data=body, headers=HEADERS, raise_for_status=True) as answer:
        await answer.read()
