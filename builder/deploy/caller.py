"""One HTTP request to Runpod: with the key, again where that helps, and never twice in doubt."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from builder.deploy.failures import failure
from builder.errors import ApiUnavailable, DeployError

# The platform's edge refuses the default names of some HTTP clients.
USER_AGENT = "runpod-llm-worker"
ADDRESS = "RUNPOD_API_URL"
Say = Callable[[str], None]
ADVICE = re.compile(r": (try again|check the network)")  # not before the last try


@dataclass(frozen=True)
class Pace:
    """How long is waited for what.

    Attributes:
        again_seconds: before each further try of a request that failed.
        longest_seconds: that a 429 may ask to wait.
        request_seconds: for an answer's next bytes.
        poll_seconds: between two looks at a starting worker.
        quiet_seconds: without a line, until the logs that are there have all been read.
    """

    again_seconds: tuple[float, ...] = (1.0, 3.0, 9.0)
    longest_seconds: float = 60.0
    request_seconds: float = 30.0
    poll_seconds: float = 5.0
    quiet_seconds: float = 3.0


USUAL = Pace()


class InDoubt(DeployError):
    """No answer, or one of a server that failed: the request may have been carried out."""


class Caller:
    """Sends requests with the key.

    Args:
        key: RUNPOD_API_KEY.
        pace: how often and how fast.
        say: is told when something is tried again.
    """

    def __init__(self, key: SecretStr, pace: Pace, say: Say) -> None:
        self.pace = pace
        self._say = say
        bearer = f"Bearer {key.get_secret_value()}"
        headers = {"authorization": bearer, "user-agent": USER_AGENT}
        self.client = httpx.Client(headers=headers, timeout=pace.request_seconds)

    def get(self, url: str, what: str) -> dict[str, Any]:
        """Return the object that is there, asked for as often as need be."""
        return self.ask("GET", url, what)

    def ask(
        self, method: str, url: str, what: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request that may be repeated; return the object that is answered.

        Raises:
            DeployError: the failure in one sentence.
        """
        waits_seconds = iter(self.pace.again_seconds)
        while True:
            try:
                return self.once(method, url, what, body)
            except InDoubt as error:
                self.pause(error, next(waits_seconds, None))

    def once(
        self, method: str, url: str, what: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request; after a 429, which nobody carried out, again.

        Returns:
            The object that is answered, an empty one where there is no answer.

        Raises:
            InDoubt: it may have been carried out.
            DeployError: it has not been, in one sentence.
        """
        waits_seconds = iter(self.pace.again_seconds)
        while (answer := self._answer(method, url, body)).status_code == 429:
            busy = failure(answer, what)
            asked_seconds = _retry_after(answer)
            if asked_seconds > self.pace.longest_seconds:
                raise ApiUnavailable(f"{str(busy)[:-1]}, in {asked_seconds:.0f} s.")
            self.pause(busy, next(waits_seconds, None), asked_seconds)
        if answer.status_code >= 500 or answer.status_code == 408:
            raise InDoubt(str(failure(answer, what)))
        if answer.status_code >= 300:
            raise failure(answer, what)
        return _decoded(answer)

    def pause(
        self, error: DeployError, seconds: float | None, at_least_seconds: float = 0.0
    ) -> None:
        """Say why the same is tried again, and wait.

        Args:
            error: what went wrong.
            seconds: to wait; None if it has been tried often enough.
            at_least_seconds: that the answer asks for.

        Raises:
            ApiUnavailable: it has been tried often enough.
        """
        if seconds is None:
            raise ApiUnavailable(str(error)) from error
        seconds = max(seconds, at_least_seconds)
        cause = ADVICE.split(str(error))[0].rstrip(".")
        self._say(f"{cause}; again in {seconds:g} s")
        time.sleep(seconds)

    def _answer(self, method: str, url: str, body: Mapping[str, Any] | None) -> httpx.Response:
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            return self.client.request(method, url, content=content, headers=headers)
        except httpx.RequestError as error:
            raise InDoubt(unreachable(url, error)) from error


def unreachable(url: str, error: httpx.RequestError) -> str:
    """Say that nobody answers at an address."""
    address = httpx.URL(url)
    port = f":{address.port}" if address.port else ""
    slow = isinstance(error, httpx.ReadTimeout)
    trouble = "does not answer in time" if slow else "cannot be reached"
    return f"{address.host}{port} {trouble}: check the network, and {ADDRESS}."


def _retry_after(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0


def _decoded(answer: httpx.Response) -> dict[str, Any]:
    if not answer.content:
        return {}
    try:
        made = answer.json()
    except ValueError:
        made = None
    if not isinstance(made, dict):
        raise ApiUnavailable(f"What answers at {answer.url.host} is not Runpod's: check {ADDRESS}.")
    return made
