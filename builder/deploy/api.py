"""Client of Runpod's REST API v2: the calls that a deployment makes, their retries and errors.

Objects are the API's JSON objects, without the fields that are null. From
docs.runpod.io/api-reference-v2 and its OpenAPI description (2026); it has not been run against the
live platform. Not documented, and assumed here:

- Lists have no pages; PATCH merges `gpu` and `workers` (that it replaces `env` is documented).
- GET returns `env` as it was set. If it hid values, every deployment would set them again.
- An endpoint with FlashBoot may be listed as `{name} -fb`, as in the older APIs.
- A template may have the same name as the one that Runpod makes for an endpoint, and may be deleted
  together with the endpoint.
- Without `requestUrls` a queue is at https://api.runpod.ai/v2/{id}, a load balancer at
  https://{id}.api.runpod.ai. A new endpoint may answer 404 there at first, and /ping of a load
  balancer without a worker answers with any status but 200.
- An account without credit gets 402, or a 400 or 403 whose text says so.
- An endpoint that was created by a POST whose answer was lost is listed before the next try.
- DELETE works while workers run (the older APIs needed `workers.max` 0 first).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import quote

import httpx

from builder.cli import Console
from builder.deploy.api_errors import (
    KEYS_PAGE,
    Json,
    TemporaryFailure,
    error_of,
    invalid_answer,
    json_of,
    unreachable,
)
from builder.errors import ApiKeyRefused, InvalidArgument, NotFound

DEFAULT_URL = "https://api.runpod.io"
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")
USER_AGENT = "runpod-llm-worker"  # the platform's edge refuses the default names of some clients
FLASHBOOT_SUFFIX = " -fb"
JOB_STATES = ("inQueue", "inProgress", "completed", "failed", "retried")
MAX_RETRY_AFTER_SECONDS = 60.0

Kind = Literal["endpoint", "template"]
PATHS: Mapping[Kind, str] = {"endpoint": "serverless", "template": "templates"}


@dataclass(frozen=True)
class Timeouts:
    """Timeouts and waits of a command, in seconds.

    Attributes:
        retries: wait before each retry of a failed request.
        request: timeout for the next byte of an answer.
        poll: interval between two checks of a starting worker.
        log_idle: time without a log line, after which all existing lines count as read.
    """

    retries: tuple[float, ...] = (1.0, 3.0, 9.0)
    request: float = 30.0
    poll: float = 5.0
    log_idle: float = 3.0


class Api:
    """The API for the account of one key.

    Args:
        http: a client that has the API's URL, and sends the key with every request.
        timeouts: timeouts and retries of requests.
        console: prints a line for each retry.
    """

    def __init__(self, http: httpx.Client, timeouts: Timeouts, console: Console) -> None:
        self.http, self.timeouts, self._console = http, timeouts, console

    def find(self, kind: Kind, name: str) -> Json:
        """Return the endpoint or template with a name, {} if there is none.

        Raises:
            InvalidArgument: there are several with that name.
        """
        what = f"the list of {kind}s"
        listed = self.request("GET", PATHS[kind], what).get(f"{kind}s")
        if not isinstance(listed, list) or not all(
            isinstance(each, dict) and isinstance(each.get("id"), str) for each in listed
        ):
            raise invalid_answer(what)
        ids = [
            each["id"]
            for each in listed
            if each.get("name", "").removesuffix(FLASHBOOT_SUFFIX) == name
            and (kind == "endpoint" or each.get("serverless"))
        ]
        if len(ids) > 1:
            raise InvalidArgument(
                f"There are {len(ids)} {kind}s named {name} ({', '.join(ids)}): delete or rename "
                "all but one in Runpod's console."
            )
        return self._request_one("GET", kind, ids[0]) if ids else {}

    def endpoint(self, name: str) -> Json:
        """Return the endpoint with a name.

        Raises:
            NotFound: there is none.
        """
        if endpoint := self.find("endpoint", name):
            return endpoint
        raise NotFound(f"There is no endpoint named {name}: python -m builder deploy creates one.")

    def save(self, kind: Kind, id: str | None, body: Json) -> Json:
        """Change the fields that are in the body; return the whole object.

        Without an id, create it; after a lost answer, look for it before a retry.
        """
        if id:
            return self._request_one("PATCH", kind, id, body)
        name = body["name"]
        find = partial(self.find, kind, name)
        return self.request("POST", PATHS[kind], f"{kind} {name}", body, find_created=find)

    def delete(self, kind: Kind, id: str) -> None:
        with suppress(NotFound):
            self._request_one("DELETE", kind, id)

    def check_volume(self, id: str) -> None:
        """Raise NotFound unless the network volume exists."""
        self.request("GET", f"network-volumes/{quote(id, safe='')}", f"network volume {id}")

    def workers(self, endpoint_id: str) -> Json:
        """Return the `workers`, and a `summary` with their number in each state."""
        return self.request("GET", f"serverless/{endpoint_id}/workers", f"endpoint {endpoint_id}")

    def jobs(self, endpoint: Json) -> Json:
        """Return the number of a queue's jobs in each state."""
        health = self.request("GET", f"{endpoint_url(endpoint)}/health", "the endpoint")
        return {state: health.get("jobs", {}).get(state, 0) for state in JOB_STATES}

    def request(
        self,
        method: str,
        url: str,
        what: str,
        body: Json | None = None,
        find_created: Callable[[], Json] = dict,
    ) -> Json:
        """Send a request, with retries after temporary failures; return the answer's JSON object.

        Args:
            url: a path of the API, or the URL of an endpoint's own route.
            what: the requested object in error texts, such as `endpoint ep-1`.
            find_created: returns the object that a failed try has created after all. Without it,
                the request must be safe to repeat.

        Raises:
            DeployError: the failure, in one sentence about `what`.
        """
        waits = iter(self.timeouts.retries)
        while True:
            try:
                return self._send(method, url, what, body)
            except TemporaryFailure as error:
                seconds = next(waits, None)
                if seconds is None or error.retry_after > MAX_RETRY_AFTER_SECONDS:
                    raise
                seconds = max(seconds, error.retry_after)
                self._console.print(f"{error} Trying again in {seconds:g} s.")
                time.sleep(seconds)
            if created := find_created():
                return created

    def _send(self, method: str, url: str, what: str, body: Json | None) -> Json:
        try:
            answer = self.http.request(method, url, json=body)
        except httpx.RequestError as error:
            raise unreachable(error) from error
        if answer.status_code >= 300:
            raise error_of(answer, what)
        made = json_of(answer) if answer.content else {}
        if made is None:
            raise invalid_answer(what)
        return made

    def _request_one(self, method: str, kind: Kind, id: str, body: Json | None = None) -> Json:
        return self.request(method, f"{PATHS[kind]}/{id}", f"{kind} {id}", body)


@contextmanager
def connect(environ: Mapping[str, str], timeouts: Timeouts, console: Console) -> Iterator[Api]:
    """Open the API with the key of RUNPOD_API_KEY, at RUNPOD_API_URL.

    Raises:
        ApiKeyRefused, InvalidArgument: one of the two is missing or invalid.
    """
    key = environ.get("RUNPOD_API_KEY", "").strip()
    if not key:
        raise ApiKeyRefused(f"RUNPOD_API_KEY is not set: create a key {KEYS_PAGE}, and export it.")
    if key.split() != [key]:
        raise ApiKeyRefused("RUNPOD_API_KEY must be one word without spaces or line breaks.")
    console.hide([key])
    url = environ.get("RUNPOD_API_URL", "").strip() or DEFAULT_URL
    if not _is_safe(url):
        raise InvalidArgument(
            f"RUNPOD_API_URL={url!r} must be an https URL: the key is sent there."
        )
    base_url = f"{url.rstrip('/').removesuffix('/v2')}/v2"
    headers = {"authorization": f"Bearer {key}", "user-agent": USER_AGENT}
    with httpx.Client(base_url=base_url, headers=headers, timeout=timeouts.request) as http:
        yield Api(http, timeouts, console)


def _is_safe(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
        parsed.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        return False
    is_local = parsed.scheme == "http" and parsed.host in LOCAL_HOSTS
    return is_local or (parsed.scheme == "https" and bool(parsed.host))


def is_queue(endpoint: Json) -> bool:
    return endpoint.get("type") != "LOAD_BALANCER"


def endpoint_url(endpoint: Json) -> str:
    """Return the address of an endpoint's own routes."""
    id, urls = endpoint["id"], endpoint.get("requestUrls") or {}
    if is_queue(endpoint):
        health: str = urls.get("health", f"https://api.runpod.ai/v2/{id}/health")
        return health.removesuffix("/health")
    base: str = urls.get("base", f"https://{id}.api.runpod.ai")
    return base.rstrip("/")


def openai_url(endpoint: Json) -> str:
    """Return the base_url of OpenAI clients."""
    return endpoint_url(endpoint) + ("/openai/v1" if is_queue(endpoint) else "/v1")
