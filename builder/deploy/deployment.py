"""The steps of `deploy`: compare, print the plan, apply it, wait, send a test request."""

import argparse
from collections.abc import Mapping

from builder.cli import Console
from builder.deploy.api import Api, openai_url
from builder.deploy.changes import desired_deployment, endpoint_name
from builder.deploy.smoke_test import QUESTION, run_smoke_test
from builder.deploy.start_timeout import INIT_TIMEOUT, hub_sizes
from builder.errors import DeployError

WAIT_SECONDS = 900
# Options by whose values the workers of one endpoint differ.
DIFFERENCES = {"gpu.pools": "kinds of GPUs", "networkVolumes": "network volumes"}
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
    endpoint = api.find("endpoint", name) if api else {}
    template = api.find("template", name) if api else {}
    sizes = hub_sizes(environ, console)
    desired = desired_deployment(options, environ, endpoint, template, sizes)
    env = desired.env
    console.hide(env.secrets())  # before the check, whose error text has the value
    if not endpoint or env.values != env.before:
        env.check()
    if options.preset and options.preset.engine == "sglang" and not endpoint:
        console.print("note: this preset needs the image with SGLang")
    several = [what for name, what in DIFFERENCES.items() if len(vars(options)[name] or ()) > 1]
    if several and desired.changes and "STARTUP_ERROR_SECONDS" not in env.values:
        console.print(
            f"note: several {' and '.join(several)}: a worker that cannot start with its own fails "
            "jobs that another may answer; --env STARTUP_ERROR_SECONDS=0 has it take none"
        )
    for line in desired.lines():
        console.print(line)
    for volume in options.networkVolumes or ():
        if api:
            api.check_volume(volume)
    if api is None or options.dry_run:
        console.print("nothing was changed (--dry-run)")
        return

    done: list[str] = []
    model = None
    try:
        for change in desired.changes:
            what, verb = f"{change.kind} {name}", "changed" if change.id else "created"
            done.append(f"{what} may have been {verb}")
            resource = api.save(change.kind, change.id, change.body)
            done[-1] = f"{verb} {what} ({resource['id']})"
            console.print(done[-1])
            if change.kind == "endpoint":
                endpoint = resource
        if wait := _wait_seconds(options.wait, env.values):
            model = run_smoke_test(api, endpoint, env, wait, console)
    except KeyboardInterrupt as error:
        raise DeployError(
            f"interrupted; {' and '.join(done) or 'nothing was changed'}: repeat the "
            f"command to continue, or run python -m builder delete {name} to remove it."
        ) from error
    url = openai_url(endpoint)
    example = CLIENT_EXAMPLE.format(url=url, model=model or env.model, question=QUESTION)
    console.print(example)


def _wait_seconds(given: int | None, env: Mapping[str, str]) -> int:
    """Return --wait, by default at least as long as the platform waits."""
    if given is not None:
        return given
    timeout = env.get(INIT_TIMEOUT, "")
    return max(WAIT_SECONDS, int(timeout) if timeout.isdecimal() else 0)
