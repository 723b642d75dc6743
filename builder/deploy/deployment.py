"""The steps of `deploy`: compare, print the plan, apply it, wait, send a test request."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from builder.cli import Console
from builder.deploy.api import Api, is_queue, openai_url
from builder.deploy.api_errors import Json
from builder.deploy.changes import Deployment, desired_deployment, endpoint_name
from builder.deploy.environment import WorkerEnvironment
from builder.deploy.smoke_test import QUESTION, send_test_request, wait_for_worker
from builder.errors import DeployError
from builder.presets import find_preset

CLIENT_EXAMPLE = """
{url}

import os
from openai import OpenAI

client = OpenAI(base_url="{url}", api_key=os.environ["RUNPOD_API_KEY"])
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "{question}"}}],
)
print(answer.choices[0].message.content)"""


def deploy(
    options: argparse.Namespace, environ: Mapping[str, str], api: Api | None, console: Console
) -> None:
    """Create or change the endpoint and test it; without an API, print the plan only.

    Raises:
        BuilderError, handler.errors.StartError: the error, in one sentence.
    """
    name = endpoint_name(options)
    if api is None:
        console.print("RUNPOD_API_KEY is not set: this is the plan for a new endpoint")
    endpoint = api.find("endpoint", name) if api else None
    template = api.find("template", name) if api else None
    desired = desired_deployment(options, environ, endpoint, template)
    env = desired.env
    console.hide(env.secrets())  # before the check, whose error text has the value
    if endpoint is None or env.values != env.before:
        env.check()
    if options.preset and not endpoint and find_preset(options.preset).engine == "sglang":
        console.print("note: this preset needs the image with SGLang")
    for line in desired.lines():
        console.print(line)
    for volume in options.volume or ():
        if api:
            api.check_volume(volume)
    if api is None or options.dry_run:
        console.print("nothing was changed (--dry-run)")
        return

    done: list[str] = []
    with _interruption_explained(name, done):
        endpoint = _apply(desired, endpoint, api, done, console)
        model = env.model
        if options.wait:
            model = _test_endpoint(options.wait, endpoint, env, api, console) or model
    url = openai_url(endpoint)
    console.print(CLIENT_EXAMPLE.format(url=url, model=model, question=QUESTION))


@contextmanager
def _interruption_explained(name: str, done: Sequence[str]) -> Iterator[None]:
    """After Ctrl-C, report the changes that were made, and how to continue."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise DeployError(
            f"interrupted; {' and '.join(done) or 'nothing was changed'}: repeat the "
            f"command to continue, or run python -m builder delete {name} to remove it."
        ) from error


def _apply(
    desired: Deployment,
    endpoint: Json | None,
    api: Api,
    done: list[str],
    console: Console,
) -> Json:
    """Apply the changes and add each to `done`; return the resulting endpoint."""
    for change in desired.changes:
        what, verb = f"{change.kind} {desired.name}", "changed" if change.id else "created"
        done.append(f"{what} may have been {verb}")
        if change.id is None:
            resource = api.create(change.kind, change.body)
        else:
            resource = api.update(change.kind, change.id, change.body)
        done[-1] = f"{verb} {what} ({resource['id']})"
        console.print(done[-1])
        if change.kind == "endpoint":
            endpoint = resource
    if endpoint is None:
        raise RuntimeError("there is neither an endpoint nor a change that creates one")
    return endpoint


def _test_endpoint(
    timeout_seconds: int, endpoint: Json, env: WorkerEnvironment, api: Api, console: Console
) -> str | None:
    """Wait for a worker and send it a test request; return the name of its model."""
    if endpoint.get("workers", {}).get("max") == 0:
        console.print("workers.max is 0: no worker will start, so no test request is sent")
        return None
    if not is_queue(endpoint) and "API_KEY" in env.values:
        console.print("the workers require API_KEY beside Runpod's key: no test request is sent")
        return None
    models = wait_for_worker(api, endpoint, timeout_seconds, console)
    model = models[0] if models else env.model
    if env.values.get("RUNNER") == "pooling":
        console.print("the model returns embeddings, not text: no test request is sent")
    else:
        text = send_test_request(api, endpoint, model)
        console.print(text or "(no text within the test request's tokens)")
    return model
