"""Waiting for an endpoint's first healthy worker, with a line for each change."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import httpx

from builder.deploy.api import Api, Thing, kind_of, root_of
from builder.deploy.caller import Caller, Say
from builder.deploy.failures import failure
from builder.deploy.wanted import at
from builder.deploy.workers import Workers
from builder.errors import DeployError, NoHealthyWorker, NotFound
from handler.errors import one_line

# Workers come when there is work: this job wakes one, and costs no token.
WAKING = {"input": {"route": "models"}}
PING_SECONDS = 10.0
MAX_REASON_CHARACTERS = 300


class Watch(Protocol):
    """One look at an endpoint: its workers, and the models that the first healthy one serves."""

    def look(self) -> tuple[Workers, list[str] | None]:
        """Return both; no models as long as nobody has answered."""
        ...


class QueueWatch:
    """A queue endpoint: a job that was answered is the proof of a healthy worker.

    Args:
        caller: sends the requests.
        root: the endpoint's address.
    """

    def __init__(self, caller: Caller, root: str) -> None:
        self._caller = caller
        self._root = root
        self._job: str | None = None

    def look(self) -> tuple[Workers, list[str] | None]:
        """Ask for the counts, and for the job.

        Raises:
            NoHealthyWorker: the worker failed on the job.
        """
        try:
            if self._job is None:  # in doubt twice, which does no harm
                run = self._caller.ask("POST", f"{self._root}/run", "the endpoint", WAKING)
                self._job = str(run.get("id"))
            health = self._caller.get(f"{self._root}/health", "the endpoint")
            job = self._caller.get(f"{self._root}/status/{self._job}", "the first job")
        except NotFound:
            return Workers(), None
        status = job.get("status")
        if status in ("FAILED", "TIMED_OUT", "CANCELLED"):
            reason = one_line(str(job.get("error") or status))[:MAX_REASON_CHARACTERS]
            self._job = None
            raise NoHealthyWorker(
                f"A worker started and failed on the first job: {reason.rstrip('.')}."
            )
        if status != "COMPLETED":
            return Workers.of_health(health), None
        self._job = None
        return Workers.of_health(health), served(job.get("output"))

    def leave(self) -> None:
        """Cancel the job if nobody has answered it: nobody would read what it costs."""
        if self._job is not None:
            with suppress(DeployError, httpx.HTTPError):
                self._caller.once("POST", f"{self._root}/cancel/{self._job}", "the first job")


class BalancerWatch:
    """A load balancer: its /ping is 200 when a worker is healthy, and asking wakes one.

    Args:
        api: for the counts.
        endpoint: as the API describes it.
    """

    def __init__(self, api: Api, endpoint: Thing) -> None:
        self._api = api
        self._endpoint = endpoint
        self._root = root_of(endpoint)

    def look(self) -> tuple[Workers, list[str] | None]:
        """Ask for the counts, and for /ping."""
        workers = Workers.of_summary(self._api.workers(str(self._endpoint["id"])))
        try:
            answer = self._api.caller.client.get(f"{self._root}/ping", timeout=PING_SECONDS)
        except httpx.RequestError:
            return workers, None
        if answer.status_code in (401, 403):
            raise failure(answer, "the endpoint")
        if answer.status_code != 200:
            return workers, None
        return workers, served(self._api.caller.get(f"{self._root}/v1/models", "its models"))


@contextmanager
def watching(api: Api, endpoint: Thing) -> Iterator[Watch]:
    """Watch an endpoint, and leave nothing running there."""
    if kind_of(endpoint) == "LOAD_BALANCER":
        yield BalancerWatch(api, endpoint)
        return
    watch = QueueWatch(api.caller, root_of(endpoint))
    try:
        yield watch
    finally:
        watch.leave()


def first_worker(
    watch: Watch, seconds: float, poll_seconds: float, say: Say, explain: Callable[[Workers], str]
) -> list[str]:
    """Wait for a healthy worker; return the names of the models that it serves.

    Args:
        watch: looks at the endpoint.
        seconds: to wait at most.
        poll_seconds: between two looks.
        say: gets a line for each change.
        explain: says in a sentence why there is none, when the time is over.

    Raises:
        NoHealthyWorker: none became healthy in time, or the first one failed.
    """
    say(f"waiting for the first worker, at most {seconds:.0f} s")
    started, before = time.monotonic(), ""
    while True:
        workers, models = watch.look()
        passed = time.monotonic() - started
        now = str(workers) if models is None else "a worker answers"
        if now != before:
            say(f"{passed:5.0f} s  {now}")
        if models is not None:
            return models
        if passed >= seconds:
            raise NoHealthyWorker(explain(workers))
        before = now
        time.sleep(min(poll_seconds, seconds - passed))


def reason(name: str, seconds: float, endpoint: Thing, workers: Workers) -> str:
    """Say why there is no healthy worker, and what to do."""
    logs = f"python -m builder logs {name}"
    if workers.unhealthy:
        return f"After {seconds:.0f} s a worker is unhealthy: see {logs}."
    if workers.starting or workers.ready:
        return (
            f"After {seconds:.0f} s a worker is still starting: see {logs}, and wait longer "
            "(--wait; a start of more than 7 minutes needs -e RUNPOD_INIT_TIMEOUT=SECONDS)."
        )
    state = "every worker is throttled" if workers.throttled else "no worker was placed"
    pools = ", ".join(at(endpoint, "gpu.pools") or ()) or "its GPU pools"
    bound = " in the data centre of its network volume" if endpoint.get("networkVolumes") else ""
    return (
        f"After {seconds:.0f} s {state}: there is no capacity in {pools}{bound}; add pools "
        "(--gpu A,B), or try again later."
    )


def served(output: Any) -> list[str]:
    """Return the models in an answer of /v1/models, or in a job's output with one."""
    if isinstance(output, list):
        output = output[0] if output else None
    data = output.get("data") if isinstance(output, dict) else None
    return [str(each["id"]) for each in data or () if isinstance(each, dict) and "id" in each]
