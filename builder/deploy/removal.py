"""The steps of `delete`: look, ask, remove."""

import sys

from builder.deploy.api import Api, Thing, kind_of
from builder.deploy.choice import made_of
from builder.deploy.report import jobs_of
from builder.deploy.screen import Screen
from builder.deploy.session import one
from builder.errors import NotDeleted, NotFound


def remove(api: Api, name: str, yes: bool, force: bool, screen: Screen) -> None:
    """Delete an endpoint and its template.

    Args:
        api: Runpod's.
        name: of both.
        yes: nobody is asked.
        force: jobs that run are no reason not to.
        screen: shows what is done.

    Raises:
        NotDeleted: jobs run, or somebody said no.
        DeployError: the API refuses, in one sentence.
    """
    endpoint, template = one(api, "endpoint", name), one(api, "template", name)
    if endpoint is None and template is None:
        advice = f": {made}" if (made := made_of(name)) else ""
        raise NotFound(f"There is no endpoint and no template named {name}{advice}.")
    things = [("endpoint", endpoint), ("template", template)]
    what = " and ".join(f"{noun} {name} ({thing['id']})" for noun, thing in things if thing)
    if endpoint is not None and not force:
        _check_idle(api, name, endpoint)
    if not yes:
        _ask(what)
    if endpoint is not None:
        api.delete("endpoint", str(endpoint["id"]))
    if template is not None:
        api.delete("template", str(template["id"]))
    screen(f"deleted {what}")


def _check_idle(api: Api, name: str, endpoint: Thing) -> None:
    if kind_of(endpoint) == "QUEUE":
        jobs = jobs_of(api, endpoint)
        waiting, running = jobs["inQueue"], jobs["inProgress"]
        what = f"{running} jobs in progress and {waiting} in the queue"
    else:
        summary = api.workers(str(endpoint["id"])).get("summary") or {}
        waiting, running = 0, int(summary.get("running") or 0)
        what = f"{running} workers that answer requests"
    if waiting or running:
        raise NotDeleted(f"{name} has {what}: wait for them, or give --force.")


def _ask(what: str) -> None:
    if not sys.stdin.isatty():
        raise NotDeleted(f"Nobody can be asked whether to delete {what}: give --yes.")
    try:
        said = input(f"Delete {what}? [y/N] ")
    except EOFError:  # Ctrl-D
        said = ""
    if said.strip().lower() not in ("y", "yes"):
        raise NotDeleted(f"Kept {what}.")
