"""The commands `deploy`, `status`, `logs` and `delete`."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from builder.cli import Console, command_parser, run_command, whole_number
from builder.deploy import deployment
from builder.deploy.api import PATHS, Api, Timeouts, connect, is_queue, openai_url
from builder.deploy.api_errors import Json
from builder.deploy.changes import TYPES, gpu_pools
from builder.deploy.logs import print_logs
from builder.deploy.smoke_test import worker_states
from builder.errors import NotDeleted, NotFound
from builder.presets import PRESETS, find_preset, model_slug, preset_slug

Argv = Sequence[str] | None
Environ = Mapping[str, str]
DEFAULT = Timeouts()
EXIT_OS_ERROR = 1  # 4 is an account without credit
DEPLOY = """Create a Runpod endpoint with this worker, or change the one with that name.

    export RUNPOD_API_KEY=…
    python -m builder deploy small-awq --image me/worker:1

prints the plan, applies it, waits for the first worker, sends a test request, and prints the
endpoint's URL with an example of a client. Repeat it with other arguments to change the endpoint:
fields without an argument stay as they are. A preset or --model replaces the environment, except
for secrets; --env alone changes only the variables that it names.

presets:
"""
EXIT_CODES = """

Exit codes: 0 done; 1 interrupted; 2 an argument or a setting is invalid, or contradicts the
existing endpoint; 3 RUNPOD_API_KEY is missing, invalid or lacks a permission (401, 403);
4 no credit (402); 5 no such endpoint, worker or volume (404); 6 the API refuses the request (400,
422); 7 the API cannot be reached, fails (5xx) or stays busy (429); 8 no worker became healthy in
time; 9 no answer to the test request; 10 nothing was deleted."""


def deploy(argv: Argv = None, environ: Environ = os.environ, timeouts: Timeouts = DEFAULT) -> int:
    """Create or change an endpoint; return the exit code."""

    def work(console: Console) -> None:
        options = _deploy_parser().parse_args(argv)
        if options.dry_run and not environ.get("RUNPOD_API_KEY"):
            deployment.deploy(options, environ, None, console)
        else:
            with connect(environ, timeouts, console) as api:
                deployment.deploy(options, environ, api, console)

    return run_command("deploy", work, exit_os_error=EXIT_OS_ERROR)


def status(argv: Argv = None, environ: Environ = os.environ, timeouts: Timeouts = DEFAULT) -> int:
    """Print an endpoint's address, workers and jobs; return the exit code."""
    parser = _parser("status", "Print an endpoint's address, workers and jobs.")
    return _run("status", _status, parser.parse_args(argv), environ, timeouts)


def logs(argv: Argv = None, environ: Environ = os.environ, timeouts: Timeouts = DEFAULT) -> int:
    """Print the logs of an endpoint's workers; return the exit code."""
    parser = _parser("logs", "Print the logs of an endpoint's current workers.")
    add = parser.add_argument
    add("--worker", metavar="ID", help="only this worker's logs")
    add("--follow", "-f", action="store_true", help="wait for more lines, until Ctrl-C")
    add("--tail", type=whole_number(0), default=100, metavar="LINES", help="existing lines (100)")
    add("--source", choices=("container", "system"), help="only this source's logs (both)")
    return _run("logs", print_logs, parser.parse_args(argv), environ, timeouts)


def delete(argv: Argv = None, environ: Environ = os.environ, timeouts: Timeouts = DEFAULT) -> int:
    """Delete an endpoint and its template; return the exit code."""
    parser = _parser("delete", "Delete an endpoint and its template.")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask for confirmation")
    parser.add_argument("--force", action="store_true", help="delete it even while jobs run")
    return _run("delete", _delete, parser.parse_args(argv), environ, timeouts)


def _run(
    command: str,
    work: Callable[[argparse.Namespace, Api, Console], None],
    options: argparse.Namespace,
    environ: Environ,
    timeouts: Timeouts,
) -> int:
    def connected(console: Console) -> None:
        with connect(environ, timeouts, console) as api:
            work(options, api, console)

    return run_command(command, connected, exit_os_error=EXIT_OS_ERROR)


def _deploy_parser() -> argparse.ArgumentParser:
    """Return a parser that stores options by the names of the API's fields (`DEFAULTS`)."""
    words = [(preset_slug(preset), model_slug(preset.model), preset.gpu) for preset in PRESETS]
    first, second = (max(len(row[column]) for row in words) for column in (0, 1))
    presets = "\n".join(f"  {a:{first}}  {b:{second}}  {gpu}" for a, b, gpu in words)
    parser = command_parser("deploy", DEPLOY + presets + EXIT_CODES)
    add, count, positive = parser.add_argument, whole_number(0), whole_number(1)
    preset = "a model with settings and GPUs, see above"
    add("preset", nargs="?", type=find_preset, metavar="PRESET", help=preset)
    add("--name", help="name of the endpoint and its template (from the model)")
    add("--type", choices=TYPES, help="queue for jobs, lb for HTTP straight to a worker (queue)")
    add("--image", help="the worker's image, required for a new endpoint")
    add("--model", metavar="MODEL", help="MODEL_NAME, in place of the preset's")
    gpu = "GPU pools, such as ADA_24,AMPERE_24"
    add("--gpu", type=gpu_pools, dest="gpu.pools", metavar="POOL[,POOL]", help=gpu)
    add("--gpu-count", type=positive, dest="gpu.count", metavar="N", help="GPUs per worker (1)")
    env = (
        "a variable of the workers; NAME takes its value from this environment and keeps it "
        "secret, NAME= removes the variable"
    )
    add("--env", "-e", action="append", default=[], metavar="NAME[=VALUE]", help=env)
    add("--min", type=count, dest="workers.min", metavar="N", help="workers that always run (0)")
    most = "maximum number of workers (3)"
    add("--max", type=count, dest="workers.max", metavar="N", help=most)
    idle = "time until an idle worker stops (5)"
    add("--idle-timeout", type=positive, dest="workers.idleTimeout", metavar="SECONDS", help=idle)
    flashboot = ("OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT")
    keep = "whether a stopped worker's state is kept (FLASHBOOT)"
    add("--flashboot", type=str.upper, choices=flashboot, help=keep)
    volumes = "network volumes; '' for none"
    add("--volume", type=_words, dest="networkVolumes", metavar="ID[,ID]", help=volumes)
    add("--disk", type=positive, metavar="GB", help="size of a container's disk (150)")
    job = "time limit of a job (600)"
    add("--execution-timeout", type=_milliseconds, dest="timeout", metavar="SECONDS", help=job)
    add("--dry-run", action="store_true", help="print the plan, change nothing")
    wait = (
        "time limit for the first worker; 0 skips it and the test request "
        "(900, or RUNPOD_INIT_TIMEOUT if that is longer)"
    )
    add("--wait", type=count, metavar="SECONDS", help=wait)
    return parser


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _milliseconds(text: str) -> int:
    return 1000 * whole_number(1)(text)


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = command_parser(command, description + EXIT_CODES)
    parser.add_argument("name", metavar="NAME", help="name of the endpoint")
    return parser


def _status(options: argparse.Namespace, api: Api, console: Console) -> None:
    endpoint = api.endpoint(options.name)
    listed = api.workers(endpoint["id"])
    limits, gpu = endpoint.get("workers", {}), endpoint.get("gpu", {})
    pools = ", ".join(gpu.get("pools", ())) or "none"
    states = worker_states(listed.get("summary", {}))
    console.print(
        f"endpoint  {options.name} ({endpoint['id']}), {endpoint.get('type', 'QUEUE')}\n"
        f"address   {openai_url(endpoint)}\n"
        f"image     {endpoint.get('image')}\n"
        f"GPUs      {gpu.get('count', 1)} of {pools}\n"
        f"workers   {states} (min {limits.get('min')}, max {limits.get('max')})"
    )
    for worker in listed.get("workers", ()):
        details = [worker.get("status"), worker.get("gpuTypeId"), worker.get("dataCenterId")]
        if "uptimeSeconds" in worker:
            details.append(f"for {worker['uptimeSeconds']} s")
        if worker.get("isStale"):
            details.append("of an older version")
        console.print(f"  {worker['id']}  {', '.join(each for each in details if each)}")
    if is_queue(endpoint):
        jobs = api.jobs(endpoint)
        console.print(
            f"jobs      {jobs['inQueue']} in the queue, {jobs['inProgress']} in progress, "
            f"{jobs['completed']} completed, {jobs['failed']} failed, {jobs['retried']} retried"
        )


def _delete(options: argparse.Namespace, api: Api, console: Console) -> None:
    name = options.name
    found = {kind: resource for kind in PATHS if (resource := api.find(kind, name))}
    if not found:
        raise NotFound(f"There is no endpoint and no template named {name}.")
    what = " and ".join(f"{kind} {name} ({each['id']})" for kind, each in found.items())
    if "endpoint" in found and not options.force:
        _check_idle(api, found["endpoint"], name)
    if not options.yes:
        _confirm(what)
    for kind, resource in found.items():
        api.delete(kind, resource["id"])
    console.print(f"deleted {what}")


def _check_idle(api: Api, endpoint: Json, name: str) -> None:
    if is_queue(endpoint):
        jobs = api.jobs(endpoint)
        busy = jobs["inProgress"] or jobs["inQueue"]
        what = f"{jobs['inProgress']} jobs in progress and {jobs['inQueue']} in the queue"
    else:
        busy = api.workers(endpoint["id"]).get("summary", {}).get("running")
        what = f"{busy} workers that answer requests"
    if busy:
        raise NotDeleted(f"{name} has {what}: wait for them, or give --force.")


def _confirm(what: str) -> None:
    if not sys.stdin.isatty():
        raise NotDeleted(
            f"Deleting {what} needs a confirmation, and stdin is not a terminal: give --yes."
        )
    try:
        answer = input(f"Delete {what}? [y/N] ")
    except EOFError:  # Ctrl-D
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise NotDeleted(f"Kept {what}.")
