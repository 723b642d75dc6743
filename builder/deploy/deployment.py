"""The steps of `deploy`: compare, show the plan, carry it out, wait, send a test request."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from builder.cli import Console
from builder.deploy.api import Api
from builder.deploy.diff import Step, steps_to
from builder.deploy.endpoint_config import Desired, desired_endpoint, endpoint_name, preset_of
from builder.deploy.environment import (
    MODEL_VARIABLES,
    check_environment,
    check_gpu_count,
    check_model_folder,
    is_secret,
)
from builder.deploy.models import Endpoint, Template
from builder.deploy.wait import CLIENT_EXAMPLE, QUESTION, send_test_request, wait_for_worker
from builder.errors import DeployError

TYPE_TITLES = {"QUEUE": "queue", "LOAD_BALANCER": "load balancer"}


class Interrupted(DeployError):
    """Ctrl-C; the text says what exists by then."""


def deploy(
    options: argparse.Namespace, environ: Mapping[str, str], api: Api | None, console: Console
) -> None:
    """Create or change the endpoint, and show that it answers; without an API, show the plan.

    Raises:
        BuilderError, handler.errors.StartError: what is wrong, in one sentence.
    """
    name = endpoint_name(options)
    if api is None:
        console.print(
            "RUNPOD_API_KEY is not set: nothing was compared, and this is a new endpoint's plan"
        )
    current = api.find(Endpoint, name) if api else None
    template = api.find(Template, name) if api else None
    desired = desired_endpoint(options, environ, current, template)
    _print_notes(options, desired, console)
    steps = steps_to(desired)
    console.print(f"plan for {name} ({TYPE_TITLES[desired.type]})")
    for step in steps:
        console.print("\n".join(step.lines()))
    if not steps:
        console.print("  nothing to change")
    for volume in options.volume or ():
        if api:
            api.check_volume(volume)
    if api is None or options.dry_run:
        console.print("nothing was changed (--dry-run)")
        return

    done: list[str] = []
    with _interruption_explained(name, done):
        endpoint = _apply(steps, desired, api, done, console)
        model = _model_name(desired.env)
        if options.wait:
            model = _try_out(options.wait, endpoint, desired.env, api, console) or model
        if current and endpoint is not current:
            workers = api.workers(endpoint).workers
            if stale := sum(worker.isStale for worker in workers):
                console.print(
                    f"note: {stale} of {len(workers)} workers are of the version before this change"
                )
    example = CLIENT_EXAMPLE.format(url=endpoint.openai_url, model=model, question=QUESTION)
    console.print(f"\n{endpoint.openai_url}\n\n{example}")


def _print_notes(options: argparse.Namespace, desired: Desired, console: Console) -> None:
    """Check the environment and print what may not be meant; hide secrets from now on."""
    preset, env, given = preset_of(options), desired.env, desired.arguments
    console.hide(env[name] for name in env if name in given.secret or is_secret(name, env[name]))
    notes = [] if given.is_empty else [*check_environment(env)]
    if not preset or given.values["MODEL_NAME"] != preset.model:  # a repository, not a path
        notes += check_model_folder(given.values)
    notes += check_gpu_count(env, desired.endpoint.get("gpu.count", 1))
    if preset and desired.current is None and env.get("ENGINE", preset.engine) == "sglang":
        notes.append("this preset needs the image with SGLang")
    for note in notes:
        console.print(f"note: {note}")


@contextmanager
def _interruption_explained(name: str, done: Sequence[str]) -> Iterator[None]:
    """Say after Ctrl-C what has been done by then, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted; {' and '.join(done) or 'nothing was changed'}: the same command goes "
            f"on from here, python -m builder delete {name} removes it."
        ) from error


def _apply(
    steps: Sequence[Step], desired: Desired, api: Api, done: list[str], console: Console
) -> Endpoint:
    """Carry out the steps; return the endpoint as it is then."""
    endpoint = desired.current
    for step in steps:
        what = f"{step.kind.noun} {desired.name}"
        verb = "changed" if step.current else "created"
        done.append(f"{what} may have been {verb}")
        resource = step.apply(api)
        done[-1] = f"{verb} {what} ({resource.id})"
        console.print(done[-1])
        if isinstance(resource, Endpoint):
            endpoint = resource
    if endpoint is None:
        raise RuntimeError("there is neither an endpoint nor a step that creates one")
    return endpoint


def _try_out(
    timeout_seconds: int, endpoint: Endpoint, env: Mapping[str, str], api: Api, console: Console
) -> str | None:
    """Wait for a worker and send it a test request; return the name of its model."""
    if endpoint.workers.get("max") == 0:
        console.print("workers.max is 0: no worker will start, and nothing is waited for")
        return None
    if not endpoint.is_queue and "API_KEY" in env:
        console.print("the workers want API_KEY beside Runpod's key: nothing is waited for or sent")
        return None
    models = wait_for_worker(api, endpoint, timeout_seconds, console)
    model = models[0] if models else _model_name(env)
    if env.get("RUNNER") == "pooling":
        console.print("the model embeds and writes no text: no test request was sent")
    else:
        text = send_test_request(api, endpoint, model)
        console.print(text or "(no text within the test request's tokens)")
    return model


def _model_name(env: Mapping[str, str]) -> str:
    """Return the name that callers use, as far as the environment says it."""
    return next((env[name] for name in MODEL_VARIABLES if env.get(name)), "MODEL")
