"""The part of Runpod's REST API v2 that a deployment needs; every shape that we rely on is here.

From Runpod's documentation (docs.runpod.io/api-reference-v2 and its OpenAPI description,
2026). It was not run against the live platform. Documented:

- `https://api.runpod.io`, `Authorization: Bearer …`, lists wrapped by their noun, errors as
  RFC 9457 (`title`, `status`, `detail`, `errors`), 429 with `Retry-After` in seconds.
- `/v2/serverless` GET, POST (201); `/v2/serverless/{id}` GET, PATCH (a field that is left out
  stays, `env` is replaced whole), DELETE (204, with its "bound template" and its jobs).
- `/v2/serverless/{id}/workers` with `summary` and `status` of each; `…/workers/{id}/logs` as
  server-sent events with `id` and `{"ts", "source", "line"}`, `tail`, `source`, `Last-Event-ID`.
- `/v2/templates`, the same verbs; an endpoint that was made from a template keeps no link to it.
- `/v2/network-volumes/{id}` GET.
- `requestUrls` of an endpoint: `health` and others of a queue, `base` of a load balancer.
- On a queue `POST /run`, `GET /status/{job}`, `GET /health`; on a load balancer `GET /ping`.

Not verified, and chosen here:

- Lists come whole: no paging is documented.
- PATCH merges `gpu` and `workers`: of those, too, only what changes is sent.
- A queue's root is `requestUrls.health` without `/health`; without `requestUrls` it is
  `https://api.runpod.ai/v2/{id}`, a load balancer's `https://{id}.api.runpod.ai`.
- Our template has the endpoint's name, and no secrets. Whether a name may be taken twice, also by
  the template that Runpod binds to an endpoint, is not said; a template that is gone when it is to
  be deleted is as good as deleted.
- An endpoint with FlashBoot may be listed as `{name} -fb`, as it was in the older APIs.
- GET gives `env` as it was set. If the platform hid values, each deployment would set them anew.
- 402 for an account without credit; a 4xx that speaks of credit or balance is read as that too.
- After a POST without an answer the list shows what was made within the pause before the next try.
- `/health` of a queue counts `initializing`, `ready`, `running`, `idle`, `throttled`, `unhealthy`;
  `idle` may be a worker that is scaled down, so only a job that was answered counts as healthy.
- An endpoint that was made a moment ago may be 404 on its own address: that is waited for.
- What a load balancer answers to `/ping` while it has no worker: anything but 200 is "not yet".
- DELETE works with workers that run (the older APIs wanted `workers.max` 0 first).
"""

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from builder.deploy.caller import ADDRESS, Caller, InDoubt
from builder.errors import ApiUnavailable, NotFound

URL = "https://api.runpod.io"
Kind = Literal["QUEUE", "LOAD_BALANCER"]
Noun = Literal["endpoint", "template"]
Thing = Mapping[str, Any]
PATHS: dict[Noun, str] = {"endpoint": "serverless", "template": "templates"}
LISTS: dict[Noun, str] = {"endpoint": "endpoints", "template": "templates"}
OF_FLASHBOOT = " -fb"


class Api:
    """Endpoints, templates, workers.

    Args:
        caller: sends the requests.
        url: of the API, with or without `/v2`.
    """

    def __init__(self, caller: Caller, url: str = URL) -> None:
        self.caller = caller
        self._url = f"{url.rstrip('/').removesuffix('/v2')}/v2"

    def named(self, noun: Noun, name: str) -> list[Thing]:
        """Return the user's endpoints, or serverless templates, of a name."""
        answer = self.caller.get(f"{self._url}/{PATHS[noun]}", f"the list of {LISTS[noun]}")
        things = answer.get(LISTS[noun])
        if not isinstance(things, list):
            raise ApiUnavailable(f"What answers has no list of {LISTS[noun]}: check {ADDRESS}.")
        return [
            each
            for each in things
            if "id" in each
            and str(each.get("name")).removesuffix(OF_FLASHBOOT) == name
            and (noun == "endpoint" or each.get("serverless"))
        ]

    def read(self, noun: Noun, id: str) -> Thing:
        """Return one of them with all that it has."""
        return self.caller.get(self._at(noun, id), f"{noun} {id}")

    def create(self, noun: Noun, body: Thing) -> Thing:
        """Make one; in doubt whether it was made, look by its name before it is tried again.

        Raises:
            DeployError: it could not be made, in one sentence.
        """
        what = f"{noun} {body['name']}"
        url = f"{self._url}/{PATHS[noun]}"
        waits_seconds = iter(self.caller.pace.again_seconds)
        while True:
            try:
                return _with_id(self.caller.once("POST", url, what, body))
            except InDoubt as error:
                self.caller.pause(error, next(waits_seconds, None))
                if made := self.named(noun, body["name"]):
                    return made[0]

    def update(self, noun: Noun, id: str, body: Thing) -> Thing:
        """Change the fields that are in the body."""
        return _with_id(self.caller.ask("PATCH", self._at(noun, id), f"{noun} {id}", body))

    def delete(self, noun: Noun, id: str) -> None:
        """Delete one; what is gone already is as good as deleted."""
        try:
            self.caller.ask("DELETE", self._at(noun, id), f"{noun} {id}")
        except NotFound:
            return

    def volume(self, id: str) -> Thing:
        """Return a network volume."""
        url = f"{self._url}/network-volumes/{quote(id, safe='')}"
        return self.caller.get(url, f"network volume {id}")

    def workers(self, id: str) -> Thing:
        """Return an endpoint's workers, and their summary."""
        return self.caller.get(f"{self._at('endpoint', id)}/workers", f"endpoint {id}")

    def logs_url(self, id: str, worker: str) -> str:
        """Return where a worker's logs are streamed."""
        return f"{self._at('endpoint', id)}/workers/{quote(worker, safe='')}/logs"

    def _at(self, noun: Noun, id: str) -> str:
        return f"{self._url}/{PATHS[noun]}/{quote(id, safe='')}"


def _with_id(answer: Thing) -> Thing:
    if "id" not in answer:
        raise ApiUnavailable(f"What answers gives no id: check {ADDRESS}.")
    return answer


def kind_of(endpoint: Thing) -> Kind:
    """Return whether an endpoint is a queue or a load balancer."""
    return "LOAD_BALANCER" if endpoint.get("type") == "LOAD_BALANCER" else "QUEUE"


def root_of(endpoint: Thing) -> str:
    """Return the address below which an endpoint's own routes are."""
    urls = endpoint.get("requestUrls") or {}
    if kind_of(endpoint) == "LOAD_BALANCER":
        return str(urls.get("base") or f"https://{endpoint['id']}.api.runpod.ai").rstrip("/")
    health = urls.get("health") or f"https://api.runpod.ai/v2/{endpoint['id']}/health"
    return str(health).removesuffix("/health")


def openai_of(endpoint: Thing) -> str:
    """Return the base_url for OpenAI's clients."""
    between = "" if kind_of(endpoint) == "LOAD_BALANCER" else "/openai"
    return f"{root_of(endpoint)}{between}/v1"
