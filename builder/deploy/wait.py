"""Waiting for an endpoint's first healthy worker, and the test request to it."""

import time
from contextlib import suppress
from typing import Any

import httpx

from builder.cli import Console
from builder.deploy.api import Api
from builder.deploy.api_errors import MAX_REASON_CHARACTERS, error_of, reason_of, unreachable
from builder.deploy.models import Endpoint, WorkerCounts
from builder.errors import NoHealthyWorker, NotFound, SmokeTestFailed
from handler.errors import one_line

WAKE_UP_JOB = {"input": {"route": "models"}}  # costs no token
PING_TIMEOUT_SECONDS = 10.0
TEST_TIMEOUT_SECONDS = 300.0
QUESTION = "What is the capital of France?"
MAX_TOKENS = 200  # a reasoning model needs some before its answer
CLIENT_EXAMPLE = """import os
from openai import OpenAI

client = OpenAI(base_url="{url}", api_key=os.environ["RUNPOD_API_KEY"])
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "{question}"}}],
)
print(answer.choices[0].message.content)"""


class FirstJob:
    """A queue's first job: it wakes a worker, and its answer proves that one is healthy."""

    def __init__(self, api: Api, url: str) -> None:
        self._api = api
        self._url = url
        self._id: str | None = None

    def models(self) -> list[str] | None:
        """Return the models of the worker that answered, None while there is none.

        Raises:
            NoHealthyWorker: a worker failed on the job.
        """
        if self._id is None:  # sent a second time after a lost answer, which does no harm
            run = self._api.request("POST", f"{self._url}/run", "the endpoint", WAKE_UP_JOB)
            self._id = str(run.get("id"))
        job = self._api.request("GET", f"{self._url}/status/{self._id}", "the first job")
        status = job.get("status")
        if status in ("FAILED", "TIMED_OUT", "CANCELLED"):
            self._id = None
            reason = one_line(str(job.get("error") or status))[:MAX_REASON_CHARACTERS]
            raise NoHealthyWorker(
                f"A worker started and failed on the first job: {reason.rstrip('.')}."
            )
        if status != "COMPLETED":
            return None
        self._id = None
        output = job.get("output")
        return _model_names(output[0] if isinstance(output, list) and output else output)

    def cancel(self) -> None:
        """Cancel the job if it still waits: nobody would read its answer."""
        if self._id is not None:
            with suppress(httpx.HTTPError):
                self._api.http.post(f"{self._url}/cancel/{self._id}")


def ping(api: Api, url: str) -> list[str] | None:
    """Return the models of a load balancer's healthy worker, None while there is none.

    Asking wakes a worker; 200 means that one is healthy.
    """
    try:
        answer = api.http.get(f"{url}/ping", timeout=PING_TIMEOUT_SECONDS)
    except httpx.RequestError:
        return None
    if answer.status_code in (401, 403):
        raise error_of(answer, "the endpoint")
    if answer.status_code != 200:
        return None
    return _model_names(api.request("GET", f"{url}/v1/models", "its models"))


def wait_for_worker(
    api: Api, endpoint: Endpoint, timeout_seconds: float, console: Console
) -> list[str]:
    """Print each change of the workers' states until one answers; return the models it serves.

    Raises:
        NoHealthyWorker: no worker became healthy in time, or the first one failed.
    """
    job = FirstJob(api, endpoint.url)
    console.print(f"waiting for the first worker, at most {timeout_seconds:.0f} s")
    started, before = time.monotonic(), ""
    try:
        while True:
            counts, models = WorkerCounts(), None
            with suppress(NotFound):  # a new endpoint is not at its addresses yet
                counts = api.workers(endpoint).summary
                models = job.models() if endpoint.is_queue else None
            if not endpoint.is_queue:
                models = ping(api, endpoint.url)
            passed = time.monotonic() - started
            state = str(counts) if models is None else "a worker answers"
            if state != before:
                console.print(f"{passed:5.0f} s  {state}")
            if models is not None:
                return models
            if passed >= timeout_seconds:
                raise NoHealthyWorker(_why_none(endpoint, counts, timeout_seconds))
            before = state
            time.sleep(min(api.timeouts.poll, timeout_seconds - passed))
    finally:
        job.cancel()


def _why_none(endpoint: Endpoint, counts: WorkerCounts, seconds: float) -> str:
    logs = f"python -m builder logs {endpoint.name}"
    if counts.unhealthy:
        return f"After {seconds:.0f} s a worker is unhealthy: see {logs}."
    if counts.initializing or counts.ready:
        return (
            f"After {seconds:.0f} s a worker is still starting: see {logs}, and wait longer "
            "(--wait; a start of more than 7 minutes needs -e RUNPOD_INIT_TIMEOUT=SECONDS)."
        )
    state = "every worker is throttled" if counts.throttled else "no worker was placed"
    pools = ", ".join(endpoint.gpu.get("pools") or ()) or "its GPU pools"
    where = " in the data centre of its network volume" if endpoint.networkVolumes else ""
    return (
        f"After {seconds:.0f} s {state}: there is no capacity in {pools}{where}; add pools "
        "(--gpu A,B), or try again later."
    )


def _model_names(listed: Any) -> list[str]:
    """Return the ids in an answer of /v1/models."""
    data = listed.get("data") if isinstance(listed, dict) else None
    return [str(each["id"]) for each in data or () if isinstance(each, dict) and "id" in each]


def send_test_request(api: Api, endpoint: Endpoint, model: str) -> str:
    """Send a small chat completion; return the text of the answer.

    Raises:
        SmokeTestFailed: there is no answer, or it is not a chat completion.
    """
    url = f"{endpoint.openai_url}/chat/completions"
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": model, "messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0}
    try:
        answer = api.http.post(url, json=body, timeout=TEST_TIMEOUT_SECONDS)
    except httpx.RequestError as error:
        raise SmokeTestFailed(f"The test request had no answer: {unreachable(error)}") from error
    if answer.status_code != 200:
        raise SmokeTestFailed(
            f"The test request was answered with {answer.status_code}: {reason_of(answer)}."
        )
    try:
        message = answer.json()["choices"][0]["message"]
        # A reasoning model may not have come to its answer yet.
        text = message.get("content") or message.get("reasoning") or message["reasoning_content"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SmokeTestFailed(
            f"The answer to the test request is not a chat completion: check {url}."
        ) from error
    return str(text).strip()
