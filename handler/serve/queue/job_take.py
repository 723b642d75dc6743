"""The poll for jobs: what the platform answers, checked before the SDK sees it.

It replaces `get_job` of the SDK, which logs nothing of an answer that is not JSON, asks again at
once after an error, and ends its own loop with a job that has no id.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import aiohttp

from handler.engine.awake_clock import AwakeTimeout
from handler.errors import RequestError, one_line
from handler.logs import pluralize
from handler.request.json_text import json_type
from handler.serve.queue.job_text import LargeJob

log = logging.getLogger(__name__)

MAX_JOB_BYTES = 32 << 20  # /runsync takes 20 MB
MAX_ANSWER_BYTES = 1 << 30  # of all jobs of one poll
MAX_REASON_CHARACTERS = 200
ANSWER_GRACE_SECONDS = 10.0  # for the rest of an answer, when its poll is cancelled
# An id is a part of the URL of the job's results.
JOB_ID = re.compile(r"[A-Za-z0-9._~:@+=-]{1,256}")
# Fields that the SDK and the worker read. The SDK makes each field an attribute of its job: some
# names would end its loop.
JOB_FIELDS = ("id", "input", "batchId", "webhook")
REFUSED = "refused"
"""The field of a job that fails with this reason, a text or an error."""
LARGE = "large"
"""The field of a job that is parsed on a thread: the bytes of its poll's answer."""

MIN_POLL_SECONDS = 1.0  # an answer without a job that comes earlier was not held by the platform
NOTHING_PAUSE_SECONDS = 0.2  # after such an answer; 204, or 400 as under FlashBoot
FAILURE_PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # the last one for all further failures
TOO_MANY_REQUESTS_PAUSE_SECONDS = 5.0  # as in the SDK

T = TypeVar("T")


class PollFailed(Exception):
    """The answer brings no job; `pause_seconds` is the shortest pause before the next poll."""

    def __init__(self, reason: str, pause_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_seconds = pause_seconds


class JobTake:
    """Takes jobs, one poll after the other, with a pause after each that failed.

    Args:
        url: returns the URL of a poll for up to so many jobs.
        is_taken: whether a job of this id was taken and has not ended.
        decode: decodes an answer; raises ValueError if it is not JSON.
        failure_pauses_seconds: the pauses after successive failures.
    """

    def __init__(
        self,
        url: Callable[[int], str],
        is_taken: Callable[[str], bool],
        decode: Callable[[bytes], Awaitable[Any]],
        failure_pauses_seconds: tuple[float, ...] = FAILURE_PAUSES_SECONDS,
    ) -> None:
        self._url = url
        self._is_taken = is_taken
        self._decode = decode
        self._failure_pauses_seconds = failure_pauses_seconds
        self._failures = 0

    async def take(self, session: aiohttp.ClientSession, max_jobs: int) -> list[dict[str, Any]]:
        """Return the jobs of one poll; waits after a poll that brought none too early.

        A cancellation that comes after the answer's head has no effect: the jobs are taken.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            jobs = await self._poll(session, max_jobs)
        except Exception as error:  # the SDK would ask again at once
            await asyncio.sleep(self._failed(error))
            return []
        if self._failures:
            log.info("the platform answers again, after %s", pluralize(self._failures, "failure"))
            self._failures = 0
        if not jobs and loop.time() - began < MIN_POLL_SECONDS:
            await asyncio.sleep(NOTHING_PAUSE_SECONDS)
        return jobs

    def _failed(self, error: Exception) -> float:
        """Count and log a failure; return the pause."""
        last = len(self._failure_pauses_seconds) - 1
        pause_seconds = self._failure_pauses_seconds[min(self._failures, last)]
        if isinstance(error, PollFailed):
            pause_seconds = max(pause_seconds, error.pause_seconds)
        self._failures += 1
        reason = str(error) if isinstance(error, PollFailed) else _described(error)
        log.warning("no job could be taken: %s; next try in %g s", reason, pause_seconds)
        return pause_seconds

    async def _poll(self, session: aiohttp.ClientSession, max_jobs: int) -> list[dict[str, Any]]:
        async with session.get(self._url(max_jobs)) as response:
            if response.status in (204, 400):  # 400 is normal under FlashBoot
                return []
            reason = f"the platform answered {response.status}"
            if response.status == 429:
                raise PollFailed(reason, TOO_MANY_REQUESTS_PAUSE_SECONDS)
            if response.status != 200:
                raise PollFailed(reason)
            return await _completed(self._answered(response, max_jobs))

    async def _answered(
        self, response: aiohttp.ClientResponse, max_jobs: int
    ) -> list[dict[str, Any]]:
        body = await _read(response, min(max_jobs * MAX_JOB_BYTES, MAX_ANSWER_BYTES))
        if not body:
            return []
        try:
            answer = await self._decode(body)
        except ValueError as error:
            size = pluralize(len(body), "byte")
            raise PollFailed(
                f"the answer is not JSON ({size} of {response.content_type})"
            ) from error
        return self._jobs(answer)

    def _jobs(self, answer: Any) -> list[dict[str, Any]]:
        """Return the jobs of an answer, one job or a list, and log anything that is not a job."""
        if not isinstance(answer, list | dict):
            raise PollFailed(f"the answer is {json_type(answer)}, not a job or a list of jobs")
        items = answer if isinstance(answer, list) else [answer]
        jobs: dict[str, dict[str, Any]] = {}
        refused: list[str] = []
        for item in items:
            try:
                job = checked_job(item)
                name = job["id"]
                if name in jobs or self._is_taken(name):
                    raise NotAJob(f"{name} is running already")
                jobs[name] = job
            except NotAJob as error:
                refused.append(str(error))
        if refused and not jobs:
            reasons = "; ".join(dict.fromkeys(refused))[:MAX_REASON_CHARACTERS]
            raise PollFailed(f"refused what the platform sent: {reasons}")
        for reason in refused:
            log.warning("refused a job of the platform: %s", reason)
        return list(jobs.values())


class NotAJob(Exception):
    """An item of an answer that is not a job."""


def checked_job(item: object) -> dict[str, Any]:
    """Return a job with the fields that are read, and with `REFUSED` if it can only fail.

    Raises:
        NotAJob: it has no id to which a reason could be sent.
    """
    if not isinstance(item, dict):
        raise NotAJob(f"it must be an object, got {json_type(item)}")
    if item.get("id") is None:
        raise NotAJob("it has no id")
    name = item["id"]
    reason: str | RequestError = ""
    if isinstance(name, int) and not isinstance(name, bool):
        name, reason = str(name), "The job's id must be a string, got a number."
    if not isinstance(name, str):
        raise NotAJob(f"its id must be a string, got {json_type(name)}")
    if not JOB_ID.fullmatch(name):
        raise NotAJob("its id must be 1 to 256 letters, digits and ._~:@+=-")
    if "input" not in item:
        reason = reason or "The job has no input."
    job = {field: item[field] for field in JOB_FIELDS if field in item} | {"id": name}
    if isinstance(item, LargeJob):
        job |= {LARGE: item.answer_bytes}
        reason = reason or item.error or ""
    return job | {"input": None, REFUSED: reason} if reason else job


def _described(error: Exception) -> str:
    text = one_line(str(error))[:MAX_REASON_CHARACTERS]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def _completed(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await to the end, with a time limit once this task is cancelled."""
    task = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            async with AwakeTimeout(ANSWER_GRACE_SECONDS):
                return await task
        except Exception as error:
            log.warning("an answer was lost at the end of its poll: %s", _described(error))
        raise


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            response.close()
            raise PollFailed(f"the answer has more than {max_bytes} bytes")
    return bytes(body)
