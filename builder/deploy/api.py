"""Client of Runpod's REST API v2: the calls that a deployment makes, their retries and errors.

From docs.runpod.io/api-reference-v2 and its OpenAPI description (2026). It has not been run against
the live platform. Not documented, and assumed here:

- Lists have no pages; PATCH merges `gpu` and `workers` (that it replaces `env` is documented).
- GET returns `env` as it was set. If the platform hid values, every deployment would set them anew.
- An endpoint with FlashBoot may be listed as `{name} -fb`, as in the older APIs.
- A template may have the name of the one that Runpod binds to an endpoint, and may go with it.
- Without `requestUrls` a queue is at https://api.runpod.ai/v2/{id}, a load balancer at
  https://{id}.api.runpod.ai. There a new endpoint may be 404 at first, and /ping of a load balancer
  without a worker is anything but 200.
- No credit is 402, or a 4xx whose text is about credit or balance.
- An endpoint that a POST without an answer has created is listed before the next try.
- DELETE works while workers run (the older APIs wanted `workers.max` 0 first).
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from builder.cli import Console
from builder.deploy.api_errors import KEYS_PAGE, TemporaryFailure, error_of, json_of, unreachable
from builder.deploy.models import Endpoint, JobCounts, Resource, Workers
from builder.errors import ApiKeyRefused, ApiUnavailable, InvalidArgument, NotFound

DEFAULT_URL = "https://api.runpod.io"
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")
USER_AGENT = "runpod-llm-worker"  # the platform's edge refuses the default names of some clients
FLASHBOOT_SUFFIX = " -fb"
MAX_RETRY_AFTER_SECONDS = 60.0
R = TypeVar("R", bound=Resource)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Timeouts:
    """Waits of a command, in seconds.

    Attributes:
        retries: before each further try of a request that failed.
        request: for the next byte of an answer.
        poll: between two looks at a starting worker.
        log_idle: without a log line, until all existing lines are taken as read.
    """

    retries: tuple[float, ...] = (1.0, 3.0, 9.0)
    request: float = 30.0
    poll: float = 5.0
    log_idle: float = 3.0


class Api:
    """The account of one key.

    Args:
        http: sends the key with every request.
        url: of the API, with or without `/v2`.
        timeouts: of requests and their retries.
        console: shows when a request is sent again.
    """

    def __init__(self, http: httpx.Client, url: str, timeouts: Timeouts, console: Console) -> None:
        self.http, self.timeouts, self._console = http, timeouts, console
        self._url = f"{url.rstrip('/').removesuffix('/v2')}/v2"

    def find(self, kind: type[R], name: str) -> R | None:
        """Return the endpoint or template of a name.

        Raises:
            InvalidArgument: there are several.
        """
        found = self._named(kind, name)
        if len(found) > 1:
            ids = ", ".join(each.id for each in found)
            raise InvalidArgument(
                f"There are {len(found)} {kind.noun}s named {name} ({ids}): delete or rename all "
                "but one in Runpod's console."
            )
        return self._call("GET", found[0], kind) if found else None

    def create(self, kind: type[R], body: Mapping[str, Any]) -> R:
        """Create one, and never a second one because an answer was lost."""
        what, waits = f"{kind.noun} {body['name']}", iter(self.timeouts.retries)
        while True:
            try:
                return _parse(
                    kind, self._send("POST", f"{self._url}/{kind.path}", what, body), what
                )
            except TemporaryFailure as error:
                self._wait(error, next(waits, None))
                if error.may_be_done and (created := self._named(kind, body["name"])):
                    return created[0]

    def update(self, resource: R, body: Mapping[str, Any]) -> R:
        """Change the fields that are in the body."""
        return self._call("PATCH", resource, type(resource), body=body)

    def delete(self, resource: Resource) -> None:
        with suppress(NotFound):
            self.request("DELETE", self._url_of(resource), f"{resource.noun} {resource.id}")

    def check_volume(self, id: str) -> None:
        """Raise NotFound unless there is such a network volume."""
        url = f"{self._url}/network-volumes/{quote(id, safe='')}"
        self.request("GET", url, f"network volume {id}")

    def workers(self, endpoint: Endpoint) -> Workers:
        return self._call("GET", endpoint, Workers, "/workers")

    def jobs(self, endpoint: Endpoint) -> JobCounts:
        """Return the jobs of a queue."""
        what = f"endpoint {endpoint.id}"
        health = self.request("GET", f"{endpoint.url}/health", what)
        return _parse(JobCounts, health.get("jobs") or {}, what)

    def logs_url(self, endpoint: Endpoint, worker: str) -> str:
        return f"{self._url_of(endpoint)}/workers/{quote(worker, safe='')}/logs"

    def request(
        self, method: str, url: str, what: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request that may be repeated; return the JSON object of the answer.

        Raises:
            DeployError: the failure, in one sentence about `what`.
        """
        waits = iter(self.timeouts.retries)
        while True:
            try:
                return self._send(method, url, what, body)
            except TemporaryFailure as error:
                self._wait(error, next(waits, None))

    def _call(
        self,
        method: str,
        resource: Resource,
        model: type[M],
        path: str = "",
        body: Mapping[str, Any] | None = None,
    ) -> M:
        what = f"{resource.noun} {resource.id}"
        return _parse(model, self.request(method, self._url_of(resource) + path, what, body), what)

    def _send(
        self, method: str, url: str, what: str, body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        try:
            answer = self.http.request(method, url, json=body)
        except httpx.RequestError as error:
            raise unreachable(error) from error
        if answer.status_code >= 300:
            raise error_of(answer, what)
        made = json_of(answer) if answer.content else {}
        if not isinstance(made, dict):
            raise _not_runpods(what)
        return made

    def _wait(self, error: TemporaryFailure, seconds: float | None) -> None:
        """Wait before the next try; raise the error if there is none."""
        if seconds is None or error.retry_after > MAX_RETRY_AFTER_SECONDS:
            raise error
        seconds = max(seconds, error.retry_after)
        self._console.print(f"{error.cause}; again in {seconds:g} s")
        time.sleep(seconds)

    def _named(self, kind: type[R], name: str) -> list[R]:
        what = f"the list of {kind.noun}s"
        listed = self.request("GET", f"{self._url}/{kind.path}", what).get(f"{kind.noun}s")
        if not isinstance(listed, list):
            raise _not_runpods(what)
        return [
            each
            for each in (_parse(kind, one, what) for one in listed)
            if each.name.removesuffix(FLASHBOOT_SUFFIX) == name
            and getattr(each, "serverless", True)
        ]

    def _url_of(self, resource: Resource) -> str:
        return f"{self._url}/{resource.path}/{quote(resource.id, safe='')}"


@contextmanager
def connect(environ: Mapping[str, str], timeouts: Timeouts, console: Console) -> Iterator[Api]:
    """Open the API with the key of RUNPOD_API_KEY, at RUNPOD_API_URL.

    Raises:
        ApiKeyRefused, InvalidArgument: one of the two is missing or invalid.
    """
    key = environ.get("RUNPOD_API_KEY", "").strip()
    if not key:
        raise ApiKeyRefused(f"RUNPOD_API_KEY is not set: make a key {KEYS_PAGE}, and export it.")
    if key.split() != [key]:
        raise ApiKeyRefused("RUNPOD_API_KEY must be one word without spaces or line breaks.")
    console.hide([key])
    url = environ.get("RUNPOD_API_URL", "").strip() or DEFAULT_URL
    if not _is_safe(url):
        raise InvalidArgument(f"RUNPOD_API_URL={url!r} must be an https URL: the key goes there.")
    headers = {"authorization": f"Bearer {key}", "user-agent": USER_AGENT}
    with httpx.Client(headers=headers, timeout=timeouts.request) as http:
        yield Api(http, url, timeouts, console)


def _is_safe(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
        parsed.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        return False
    is_local = parsed.scheme == "http" and parsed.host in LOCAL_HOSTS
    return is_local or (parsed.scheme == "https" and bool(parsed.host))


def _parse(model: type[M], answer: Any, what: str) -> M:
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        raise _not_runpods(what) from error


def _not_runpods(what: str) -> ApiUnavailable:
    return ApiUnavailable(f"The answer for {what} is not Runpod's: check RUNPOD_API_URL.")
