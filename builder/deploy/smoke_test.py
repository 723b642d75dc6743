"""The wait for an endpoint's first healthy worker, and the test request to it."""

import time
from contextlib import suppress
from typing import Any

import httpx

from builder.cli import Console
from builder.deploy.api import FLASHBOOT_SUFFIX, Api, endpoint_url, is_queue, openai_url
from builder.deploy.api_errors import (
    MAX_REASON_CHARACTERS,
    Json,
    error_of,
    json_of,
    reason_of,
    unreachable,
)
from builder.deploy.environment import WorkerEnvironment
from builder.errors import NoHealthyWorker, NotFound, SmokeTestFailed
from handler.errors import one_line

WAKE_UP_JOB = {"input": {"route": "models"}}  # costs no token
PING_TIMEOUT_SECONDS = 10.0
TEST_TIMEOUT_SECONDS = 300.0
QUESTION = "What is the capital of France?"
MAX_TOKENS = 200  # a reasoning model needs some before its answer


def run_smoke_test(
    api: Api, endpoint: Json, env: WorkerEnvironment, timeout_seconds: int, console: Console
) -> str | None:
    """Wait for a worker and send it a test request; return the name of its model."""
    if endpoint.get("workers", {}).get("max") == 0:
        console.print("workers.max is 0: no worker will start, so no test request is sent")
        return None
    if not is_queue(endpoint) and "API_KEY" in env.values:
        console.print("the workers require API_KEY beside Runpod's key: no test request is sent")
        return None
    models = _wait_for_worker(api, endpoint, timeout_seconds, console)
    model = models[0] if models else env.model
    if env.values.get("RUNNER") == "pooling":
        console.print("the model returns embeddings, not text: no test request is sent")
    else:
        text = _send_test_request(api, endpoint, model)
        console.print(text or "(no text within the test request's tokens)")
    return model


def _wait_for_worker(api: Api, endpoint: Json, timeout_seconds: int, console: Console) -> list[str]:
    """Print each change of the workers' states until one answers; return the models it serves.

    A queue starts no worker without a job, so a job that asks for the models is sent; a load
    balancer gets /ping instead.

    Raises:
        NoHealthyWorker: no worker became healthy in time, or the first one failed.
    """
    console.print(f"waiting for the first worker, at most {timeout_seconds} s")
    url, started, before = endpoint_url(endpoint), time.monotonic(), ""
    job_id: str | None = None
    models: list[str] | None = None
    try:
        while True:
            counts: Json = {}
            with suppress(NotFound):  # a new endpoint may answer 404 at first
                counts = api.workers(endpoint["id"]).get("summary", {})
                if is_queue(endpoint):
                    if job_id is None:  # repeated after a lost answer, which does no harm
                        run = api.request("POST", f"{url}/run", "the endpoint", WAKE_UP_JOB)
                        job_id = str(run.get("id"))
                    models = _models_of_job(api, f"{url}/status/{job_id}")
            if not is_queue(endpoint):
                models = _models_of_load_balancer(api, url)
            passed = time.monotonic() - started
            state = worker_states(counts) if models is None else "a worker answers"
            if state != before:
                console.print(f"{passed:5.0f} s  {state}")
            if models is not None:
                return models
            if passed >= timeout_seconds:
                raise NoHealthyWorker(_no_worker_reason(endpoint, counts, timeout_seconds))
            before = state
            time.sleep(min(api.timeouts.poll, timeout_seconds - passed))
    finally:
        if job_id and models is None:  # its answer would not be read
            with suppress(httpx.HTTPError):
                api.http.post(f"{url}/cancel/{job_id}")


def worker_states(counts: Json) -> str:
    """Return the number of workers in each state as text."""
    states = ("initializing", "ready", "throttled", "unhealthy")
    counts = {**counts, "ready": counts.get("idle", 0) + counts.get("running", 0)}
    return ", ".join(f"{counts[s]} {s}" for s in states if counts.get(s)) or "no worker"


def _models_of_job(api: Api, status_url: str) -> list[str] | None:
    """Return the models that a worker answered with, None while there is no answer."""
    job = api.request("GET", status_url, "the first job")
    status, output = job.get("status"), job.get("output")
    if status in ("FAILED", "TIMED_OUT", "CANCELLED"):
        reason = one_line(str(job.get("error") or status))[:MAX_REASON_CHARACTERS]
        raise NoHealthyWorker(
            f"A worker started and failed on the first job: {reason.rstrip('.')}."
        )
    if status != "COMPLETED":
        return None
    return _model_names(output[0] if isinstance(output, list) and output else output)


def _models_of_load_balancer(api: Api, url: str) -> list[str] | None:
    """Return the models of a healthy worker, None while there is none; the request starts one."""
    try:
        answer = api.http.get(f"{url}/ping", timeout=PING_TIMEOUT_SECONDS)
    except httpx.RequestError:
        return None
    if answer.status_code in (401, 403):
        raise error_of(answer, "the endpoint")
    if answer.status_code != 200:
        return None
    return _model_names(api.request("GET", f"{url}/v1/models", "its models"))


def _model_names(listed: Any) -> list[str]:
    """Return the ids in an answer of /v1/models."""
    data = listed.get("data") if isinstance(listed, dict) else None
    return [str(each["id"]) for each in data or () if isinstance(each, dict) and "id" in each]


def _no_worker_reason(endpoint: Json, counts: Json, seconds: int) -> str:
    logs = f"python -m builder logs {endpoint['name'].removesuffix(FLASHBOOT_SUFFIX)}"
    if counts.get("unhealthy"):
        return f"After {seconds} s a worker is unhealthy: see {logs}."
    if any(counts.get(state) for state in ("initializing", "idle", "running")):
        return (
            f"After {seconds} s a worker is still starting: see {logs}, and wait longer "
            "(--wait; a start of more than 7 minutes needs -e RUNPOD_INIT_TIMEOUT=SECONDS)."
        )
    state = "every worker is throttled" if counts.get("throttled") else "no worker got a GPU"
    pools = ", ".join(endpoint.get("gpu", {}).get("pools", ())) or "its GPU pools"
    where = " in the data centre of its network volume" if endpoint.get("networkVolumes") else ""
    return (
        f"After {seconds} s {state}: there is no capacity in {pools}{where}; add pools "
        "(--gpu A,B), or try again later."
    )


def _send_test_request(api: Api, endpoint: Json, model: str) -> str:
    """Send a small chat completion; return the text of the answer.

    Raises:
        SmokeTestFailed: there is no answer, or it is not a chat completion.
    """
    url = f"{openai_url(endpoint)}/chat/completions"
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
        message = (json_of(answer) or {})["choices"][0]["message"]
        # A reasoning model may not have begun its answer.
        text = message.get("content") or message.get("reasoning") or message["reasoning_content"]
    except (LookupError, TypeError, AttributeError) as error:
        raise SmokeTestFailed(
            f"The answer to the test request is not a chat completion: check {url}."
        ) from error
    return str(text).strip()
