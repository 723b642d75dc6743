"""The steps of `deploy`: compare, show, carry out, wait, ask."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from builder.deploy import order
from builder.deploy.api import Api, Thing, openai_of
from builder.deploy.environment import doubted_folder, doubted_gpus, judged
from builder.deploy.names import is_secret
from builder.deploy.plan import Step, endpoint_step, template_step
from builder.deploy.privacy import hidden, hidden_before
from builder.deploy.question import ask, snippet
from builder.deploy.screen import Screen
from builder.deploy.session import one
from builder.deploy.wait import first_worker, reason, watching
from builder.deploy.wanted import Wanted, at
from builder.errors import DeployError
from builder.presets import Preset
from handler.engine.aliases import TITLES, EngineName
from handler.environ import variables as known

TITLE = {"QUEUE": "queue", "LOAD_BALANCER": "load balancer"}
UNCHANGED = "nothing was changed (--dry-run)"


class Interrupted(DeployError):
    """Somebody pressed Ctrl-C; the text says what is there by then."""


def carry_out(
    options: argparse.Namespace, environ: Mapping[str, str], api: Api, screen: Screen
) -> None:
    """Make the endpoint what was asked for, and show that it answers.

    Raises:
        DeployError, handler.errors.InvalidSetting: what is wrong, in one sentence.
    """
    name = order.name_of(options)
    wanted = order.wanted(options, one(api, "endpoint", name), environ)
    steps = planned(wanted, one(api, "template", name), order.preset_of(options), screen)
    for volume in options.volume or ():
        api.volume(volume)
    if options.dry_run:
        screen(UNCHANGED)
        return
    done: list[str] = []
    with telling(name, done):
        endpoint = _taken(steps, api, wanted, done, screen)
        model = _model(wanted.variables())
        if options.wait:
            model = _answered(options.wait, endpoint, wanted, api, screen) or model
        if any(step.noun == "endpoint" and step.id for step in steps):
            _tell_stale(endpoint, api, screen)
    screen()
    screen(openai_of(endpoint))
    screen()
    screen(snippet(endpoint, model))


def planned(
    wanted: Wanted, template: Thing | None, preset: Preset | None, screen: Screen
) -> Sequence[Step]:
    """Compare with what is there, judge the environment, and show what is to be done."""
    variables = wanted.variables()
    said = wanted.environment.secret if wanted.environment else frozenset()
    screen.keep(v for name, v in variables.items() if name in said or is_secret(name, v))
    private = hidden(wanted, template), hidden_before(wanted, template)
    steps = [template_step(wanted, template), endpoint_step(wanted)]
    steps = [step for step in steps if step.changes or step.id is None]
    engine = _engine(variables, preset, wanted.there)
    judgement = judged(variables, engine) if wanted.environment else []
    for line in (*judgement, *_doubts(wanted, preset)):
        screen(f"note: {line}")
    if preset and wanted.there is None and engine == "sglang":
        screen(f"note: this preset needs the image with {TITLES[engine]}")
    screen(f"plan for {wanted.name} ({TITLE[wanted.kind]})")
    for step in steps:
        for line in step.lines(*private):
            screen(line)
    if not steps:
        screen("  nothing to change")
    return steps


def _doubts(wanted: Wanted, preset: Preset | None) -> Iterator[str]:
    """Give a line for each thing that may be meant, and often is not."""
    said = dict(wanted.environment.values) if wanted.environment else {}
    if preset and said.get("MODEL_NAME") == preset.model:
        del said["MODEL_NAME"]  # the repository, whatever folders are here
    yield from doubted_folder(said)
    yield from doubted_gpus(wanted.variables(), wanted.gpus())


@contextmanager
def telling(name: str, done: Sequence[str]) -> Iterator[None]:
    """Say after Ctrl-C what has been done by then, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted; {' and '.join(done) or 'nothing was changed'}: the same command goes "
            f"on from here, python -m builder delete {name} removes it."
        ) from error


def _engine(
    variables: Mapping[str, str], preset: Preset | None, there: Thing | None
) -> EngineName | None:
    """Return the image's engine, None where an endpoint's image may have either."""
    if preset is None and there is not None and "ENGINE" not in variables:
        return None
    name = variables.get("ENGINE") or (preset.engine if preset else "vllm")
    return "sglang" if name == "sglang" else "vllm"


def _model(variables: Mapping[str, str]) -> str:
    """Return the name that callers use, unless the worker itself has said it."""
    names = (*known()["served_model_name"], *known()["model_name"])
    return next((variables[name] for name in names if variables.get(name)), "MODEL")


def _taken(
    steps: Sequence[Step], api: Api, wanted: Wanted, done: list[str], screen: Screen
) -> Thing:
    """Take the steps; return the endpoint as it is then."""
    endpoint: Thing = wanted.there or {}
    for step in steps:
        deed = "changed" if step.id else "created"
        done.append(f"{step.noun} {step.name} may have been {deed}")
        thing = step.take(api)
        done[-1] = f"{deed} {step.noun} {step.name} ({thing['id']})"
        screen(done[-1])
        if step.noun == "endpoint":
            endpoint = thing
    return endpoint


def _tell_stale(endpoint: Thing, api: Api, screen: Screen) -> None:
    """Say that workers from before the change may answer as well: they are replaced in time."""
    listed = api.workers(str(endpoint["id"])).get("workers") or ()
    if stale := sum(bool(each.get("isStale")) for each in listed):
        screen(f"note: {stale} of {len(listed)} workers are of the version before this change")


def _answered(
    seconds: int, endpoint: Thing, wanted: Wanted, api: Api, screen: Screen
) -> str | None:
    """Wait for a worker and ask it; return the name of the model that it serves."""
    if at(endpoint, "workers.max") == 0:
        screen("workers.max is 0: no worker will start, and nothing is waited for")
        return None
    if wanted.kind == "LOAD_BALANCER" and "API_KEY" in wanted.variables():
        screen("the workers want API_KEY beside Runpod's key: nothing is waited for or asked")
        return None
    with watching(api, endpoint) as watch:
        models = first_worker(
            *(watch, seconds, api.caller.pace.poll_seconds, screen),
            lambda workers: reason(wanted.name, seconds, endpoint, workers),
        )
    model = models[0] if models else _model(wanted.variables())
    if wanted.variables().get("RUNNER") == "pooling":
        screen("the model embeds and writes no text: no test request was sent")
        return model
    screen(ask(api.caller, endpoint, model) or "(no text within the test request's tokens)")
    return model
