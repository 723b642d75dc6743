"""The arguments of `deploy` → what is wanted."""

import argparse
from collections.abc import Mapping
from typing import Any

from builder.cli import whole_number
from builder.deploy.api import Kind, Thing, kind_of
from builder.deploy.choice import listed, name_for, pools, preset_named
from builder.deploy.environment import OVER_HTTP, read
from builder.deploy.wanted import Wanted
from builder.errors import InvalidArgument
from builder.presets import Preset

KINDS: dict[str, Kind] = {"queue": "QUEUE", "lb": "LOAD_BALANCER"}
WAIT_SECONDS = 900
TEXT = """Create a Runpod endpoint with this worker, or change the one of that name.

    export RUNPOD_API_KEY=…
    python -m builder deploy small-awq --image me/worker:1

shows the plan, carries it out, waits for the first worker, sends a test request, and prints the
address with a client's lines. Once more, it changes what differs. What is not said stays as it is
on an endpoint that is there. But with a preset or --model the environment is set anew, and of what
is there only secrets stay; --env alone changes what it names.

presets:
"""
CODES = """Exit codes: 0 done; 1 interrupted; 2 an argument or a setting means nothing, or
contradicts what is there; 3 RUNPOD_API_KEY is missing or may not (401, 403); 4 no credit (402);
5 no such endpoint, worker or volume (404); 6 the API refuses the request (400, 422); 7 the API
cannot be reached, fails (5xx) or stays busy (429); 8 no worker became healthy in time; 9 no answer
to the test request; 10 nothing was deleted."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of `deploy`."""
    made = argparse.ArgumentParser(
        prog="python -m builder deploy",
        description=TEXT + listed(),
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("preset", nargs="?", metavar="PRESET", help="a model with settings and cards, see above")
    add("--name", help="of the endpoint and its template (from the model)")
    add("--type", choices=KINDS, help="queue: jobs; lb: HTTP, straight to a worker (queue)")
    add("--image", help="the worker's image; needed for a new endpoint")
    add("--model", metavar="MODEL", help="MODEL_NAME, instead of the preset's")
    add("--gpu", metavar="POOL[,POOL]", help="GPU pools, such as ADA_24,AMPERE_24")
    add("--gpu-count", type=whole_number(1), metavar="N", help="cards of one worker (1)")
    add(
        *("--env", "-e"),
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a setting; NAME takes the value from the environment and never shows it, NAME= takes "
        "the variable out",
    )
    add("--min", type=whole_number(0), metavar="N", help="workers that always run (0)")
    add("--max", type=whole_number(0), metavar="N", help="workers at most (3)")
    add(
        "--idle-timeout", type=whole_number(1), metavar="SECONDS", help="until an idle one ends (5)"
    )
    add(
        "--flashboot",
        type=str.upper,
        choices=("OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"),
        help="keep a worker's state after its end (FLASHBOOT)",
    )
    add("--volume", type=_words, metavar="ID[,ID]", help="network volumes, '' for none")
    add("--disk", type=whole_number(1), metavar="GB", help="of a container (150)")
    add("--execution-timeout", type=whole_number(1), metavar="SECONDS", help="of a job (600)")
    add("--dry-run", action="store_true", help="show the plan, change nothing")
    add(
        "--wait",
        type=whole_number(0),
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help="for the first worker and its answer; 0 waits for nothing (900)",
    )
    return made


def preset_of(options: argparse.Namespace) -> Preset | None:
    """Return the preset, if there is one among the arguments."""
    return preset_named(options.preset) if options.preset else None


def name_of(options: argparse.Namespace) -> str:
    """Return the endpoint's name: the one that was said, or the model's.

    Raises:
        InvalidArgument: neither was said, or the name is none.
    """
    _check_word("--name", options.name)
    preset = preset_of(options)
    model = options.model or (preset.model if preset else "")
    name = options.name or name_for(model)
    if not name:
        raise InvalidArgument(
            "Say what to deploy: a preset (--help lists them), --model or --name."
        )
    return str(name)


def wanted(options: argparse.Namespace, there: Thing | None, environ: Mapping[str, str]) -> Wanted:
    """Return what is asked for, beside the endpoint that is there.

    Raises:
        InvalidArgument: an argument means nothing, or contradicts the endpoint.
    """
    name, preset = name_of(options), preset_of(options)
    _check_word("--image", options.image)
    kind = KINDS[options.type] if options.type else kind_of(there or {})
    if there is not None and kind != kind_of(there):
        raise InvalidArgument(
            f"Endpoint {name} has the type {kind_of(there)}, which cannot be changed: delete it "
            f"first (python -m builder delete {name}), or take another --name."
        )
    base = preset.variables() if preset else {}
    base |= {"MODEL_NAME": options.model} if options.model else {}
    environment = None
    if there is None or base or options.env:
        is_whole = bool(base)
        if kind == "LOAD_BALANCER" and (is_whole or there is None):
            base |= OVER_HTTP
        environment = read(base, options.env, environ, is_whole)
    return Wanted(name, kind, _said(options, preset), environment, there)


def _said(options: argparse.Namespace, preset: Preset | None) -> dict[str, Any]:
    preset_pools = list(preset.gpu_pools) if preset else None
    milliseconds = options.execution_timeout and options.execution_timeout * 1000
    fields = {
        "image": options.image,
        "disk": options.disk,
        "gpu.pools": pools(options.gpu) if options.gpu is not None else preset_pools,
        "gpu.count": options.gpu_count or (preset.gpu_count if preset else None),
        "workers.min": options.min,
        "workers.max": options.max,
        "workers.idleTimeout": options.idle_timeout,
        "timeout": milliseconds,
        "flashboot": options.flashboot,
        "networkVolumes": options.volume,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _check_word(option: str, text: str | None) -> None:
    if text is not None and text.split() != [text]:
        raise InvalidArgument(f"{option} {text!r} should be one word without spaces.")


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()
