"""What an endpoint and its template should be, from the arguments, the preset and what exists.

A configuration is a dictionary with dotted names, see `Resource.config`. On an existing endpoint,
fields that are not given stay as they are. A preset or --model sets the environment anew, and of
the existing one only secrets stay; --env alone changes what it names.
"""

import argparse
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.deploy.environment import EnvArguments, hidden_variables, parse_env_arguments
from builder.deploy.models import Endpoint, Template
from builder.errors import InvalidArgument
from builder.hub_listing import CUDA_VERSIONS, DISK_GB
from builder.plan.gpus import load_gpu_table
from builder.presets import PRESETS, Preset

TYPES = {"queue": "QUEUE", "lb": "LOAD_BALANCER"}
HTTP_PORT = "8000"
QUEUE_SCALING = {"type": "QUEUE_DELAY", "queueDelay": 4}  # seconds
REQUESTS_PER_WORKER = 32  # of a load balancer, unless MAX_NUM_SEQS says how many are one batch
DEFAULTS = {
    "disk": DISK_GB,
    "gpu.count": 1,
    # The image's CUDA: an older driver cannot run it.
    "gpu.minCudaVersion": min(CUDA_VERSIONS, key=lambda v: tuple(map(int, v.split(".")))),
    "workers.min": 0,
    "workers.max": 3,
    "workers.idleTimeout": 5,
    "scaling": QUEUE_SCALING,
    "timeout": 600_000,
    "flashboot": "FLASHBOOT",
    "networkVolumes": [],
}
REQUIRED = {
    "image": "--image REGISTRY/NAME:TAG, the worker's image",
    "gpu.pools": "--gpu, GPU pools that fit the model, such as ADA_24,AMPERE_24, or a preset",
}


@dataclass(frozen=True)
class Desired:
    """An endpoint and its template as they should be.

    Attributes:
        current: the existing endpoint, and current_template its template.
        arguments: what was given of the environment.
        env: the workers' whole environment.
        endpoint: the endpoint's configuration.
        template: the template's, without secrets: others may make endpoints from it.
        hidden: variables whose values are not shown.
        hidden_before: the same for the existing endpoint.
    """

    name: str
    type: str
    current: Endpoint | None
    current_template: Template | None
    arguments: EnvArguments
    env: Mapping[str, str]
    endpoint: Mapping[str, Any]
    template: Mapping[str, Any]
    hidden: frozenset[str]
    hidden_before: frozenset[str]


def desired_endpoint(
    options: argparse.Namespace,
    environ: Mapping[str, str],
    endpoint: Endpoint | None,
    template: Template | None,
) -> Desired:
    """Combine the arguments with what exists.

    Raises:
        InvalidArgument: an argument is invalid or missing, or contradicts the existing endpoint.
    """
    name, preset = endpoint_name(options), preset_of(options)
    endpoint_type = TYPES[options.type or "queue"]
    if endpoint and options.type and endpoint_type != endpoint.type:
        raise InvalidArgument(
            f"Endpoint {name} has the type {endpoint.type}, which cannot be changed: delete it "
            f"first (python -m builder delete {name}), or choose another --name."
        )
    endpoint_type = endpoint.type if endpoint else endpoint_type

    base = preset.variables() if preset else {}
    base |= {"MODEL_NAME": options.model} if options.model else {}
    replaces_all = bool(base) or endpoint is None
    if endpoint_type == "LOAD_BALANCER" and replaces_all:
        base |= {"SERVE_MODE": "http", "PORT": HTTP_PORT}
    arguments = parse_env_arguments(options.env, environ, base, replaces_all)
    current_env = endpoint.env if endpoint else {}
    env = arguments.applied_to(current_env)

    fields = _given_fields(options, preset)
    if endpoint_type == "LOAD_BALANCER" and not arguments.is_empty:
        fields["ports"] = [f"{env.get('PORT', HTTP_PORT)}/http"]
    fields = (endpoint.config() if endpoint else _defaults(endpoint_type, env)) | fields
    _check(fields, options, name)

    openly = {name for name, value in arguments.values.items() if value} - arguments.secret
    hidden = arguments.secret | (hidden_variables(env, template) - openly)
    template_env = template.env if template else {}
    if not arguments.is_empty or template is None:
        template_env = {
            name: template_env[name] if name in hidden else value
            for name, value in env.items()
            if name not in hidden or name in template_env.keys() - arguments.secret
        }
    return Desired(
        name=name,
        type=endpoint_type,
        current=endpoint,
        current_template=template,
        arguments=arguments,
        env=env,
        endpoint=_with_env(fields, env),
        template=_with_env({f: fields.get(f) for f in ("image", "disk", "ports")}, template_env),
        hidden=hidden,
        hidden_before=hidden_variables(current_env, template),
    )


def _given_fields(options: argparse.Namespace, preset: Preset | None) -> dict[str, Any]:
    fields = {
        "image": options.image,
        "disk": options.disk,
        "gpu.pools": preset and list(preset.gpu_pools),
        "gpu.count": options.gpu_count or (preset and preset.gpu_count),
        "workers.min": options.min,
        "workers.max": options.max,
        "workers.idleTimeout": options.idle_timeout,
        "timeout": options.execution_timeout and options.execution_timeout * 1000,
        "flashboot": options.flashboot,
        "networkVolumes": options.volume,
    }
    if options.gpu is not None:
        fields["gpu.pools"] = gpu_pools(options.gpu)
    return {name: value for name, value in fields.items() if value is not None}


def _defaults(endpoint_type: str, env: Mapping[str, str]) -> dict[str, Any]:
    if endpoint_type == "QUEUE":
        return DEFAULTS
    batch = env.get("MAX_NUM_SEQS", "")
    requests = int(batch) if batch.isdecimal() and int(batch) else REQUESTS_PER_WORKER
    return DEFAULTS | {"scaling": {"type": "REQUEST_COUNT", "requestCount": requests}}


def _check(fields: Mapping[str, Any], options: argparse.Namespace, name: str) -> None:
    if missing := [option for field, option in REQUIRED.items() if field not in fields]:
        raise InvalidArgument(f"There is no endpoint {name} yet, and a new one needs {missing[0]}.")
    low, high = fields.get("workers.min"), fields.get("workers.max")
    is_given = options.min is not None or options.max is not None
    if is_given and low is not None and high is not None and low > high:
        raise InvalidArgument(
            f"workers.min would be {low} and workers.max {high}: give a --min of at most {high}, "
            f"or a --max of at least {low}."
        )


def _with_env(fields: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    kept = {
        name: value
        for name, value in fields.items()
        if not name.startswith("env.") and value is not None
    }
    return kept | {f"env.{name}": value for name, value in env.items()}


def gpu_pools(text: str) -> list[str]:
    """Parse Runpod's names of GPU pools, with commas or spaces between them."""
    gpus = load_gpu_table().pools
    pools = text.replace(",", " ").upper().split()
    if not pools or not {gpu.name for gpu in gpus}.issuperset(pools):
        names = "; ".join(f"{gpu.name} ({gpu.label})" for gpu in gpus)
        raise InvalidArgument(f"--gpu {text!r} must be one or more of {names}.")
    return pools


def endpoint_name(options: argparse.Namespace) -> str:
    """Return the name that was given, or one from the model's.

    Raises:
        InvalidArgument: neither was given, or the name has spaces.
    """
    for option, text in (("--name", options.name), ("--image", options.image)):
        if text is not None and text.split() != [text]:
            raise InvalidArgument(f"{option} {text!r} must be one word without spaces.")
    preset = preset_of(options)
    name = options.name or model_slug(options.model or (preset.model if preset else ""))
    if not name:
        raise InvalidArgument("Give a preset (--help lists them), --model or --name.")
    return str(name)


def preset_of(options: argparse.Namespace) -> Preset | None:
    return find_preset(options.preset) if options.preset else None


def find_preset(word: str) -> Preset:
    """Return the preset of a word.

    Raises:
        InvalidArgument: there is none.
    """
    words = preset_words()
    if word not in words:
        near = difflib.get_close_matches(word.lower(), words, n=1)
        names = ", ".join(preset_slug(preset) for preset in PRESETS)
        advice = f"did you mean {near[0]}?" if near else f"must be one of {names}."
        raise InvalidArgument(f"There is no preset {word!r}: {advice}")
    return words[word]


def preset_words() -> dict[str, Preset]:
    """Return the presets by what they can be called: their own name, and their model's."""
    return {
        word: preset
        for preset in PRESETS
        for word in (preset_slug(preset), model_slug(preset.model), preset.model)
    }


def preset_slug(preset: Preset) -> str:
    return _slug(preset.name.partition(":")[0])


def model_slug(model: str) -> str:
    return _slug(model.rstrip("/").rpartition("/")[2])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
