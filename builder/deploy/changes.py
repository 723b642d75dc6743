"""The desired endpoint and template, and their differences from the existing ones.

On an existing endpoint, fields without an argument stay as they are. A preset or --model replaces
the environment, except for secrets; --env alone changes only the variables that it names.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.deploy.api import Kind, is_queue
from builder.deploy.api_errors import Json
from builder.deploy.environment import WorkerEnvironment, worker_environment
from builder.deploy.start_timeout import INIT_TIMEOUT, Sizes, downloads_of, init_timeout_seconds
from builder.errors import InvalidArgument
from builder.hub_listing import CUDA_VERSIONS, DISK_GB
from builder.presets import model_slug
from handler.gpu_pools import load_gpu_table

TYPES = {"queue": "QUEUE", "lb": "LOAD_BALANCER"}
HTTP_PORT = "8000"
REQUESTS_PER_WORKER = 32  # of a load balancer without MAX_NUM_SEQS
# A new endpoint's fields without its environment, as the plan names them; None has no default.
DEFAULTS: Json = {
    "image": None,
    "disk": DISK_GB,
    "ports": None,
    "gpu.pools": None,
    "gpu.count": 1,
    # The image's CUDA: an older driver cannot run it.
    "gpu.minCudaVersion": min(CUDA_VERSIONS, key=lambda v: tuple(map(int, v.split(".")))),
    "workers.min": 0,
    "workers.max": 3,
    "workers.idleTimeout": 5,
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},  # seconds
    "timeout": 600_000,
    "flashboot": "FLASHBOOT",
    "networkVolumes": [],
}
TEMPLATE_FIELDS = ("image", "disk", "ports")
TEMPLATE_FLAGS = {"serverless": True, "public": False, "startSsh": False, "startJupyter": False}
UNITS = {"disk": " GB", "timeout": " ms", "workers.idleTimeout": " s"}


@dataclass(frozen=True)
class Change:
    """A request that creates an endpoint or template, or changes the one with this id."""

    kind: Kind
    id: str | None
    body: Json


@dataclass(frozen=True)
class Deployment:
    """The desired endpoint.

    Attributes:
        fields: old and new value of each field that differs, by names such as `workers.max` and
            `env.MAX_MODEL_LEN`; None for an absent value.
        changes: the requests that are needed, the template's first.
    """

    name: str
    type: str
    env: WorkerEnvironment
    fields: Mapping[str, tuple[Any, Any]]
    changes: Sequence[Change]

    def lines(self) -> Iterator[str]:
        """Yield the plan's lines, with stars in place of secrets."""
        yield f"plan for {self.name} ({self.type.lower().replace('_', ' ')})"
        if not self.changes:
            yield "  nothing to change"
        width = max(map(len, self.fields), default=0)
        for change in self.changes:
            what = f"{change.kind} {self.name}"
            yield f"  change {what} ({change.id})" if change.id else f"  create {what}"
            for field, (before, after) in self.fields.items():
                if change.kind == "endpoint":
                    old = f"{_shown(field, before, self.env)} → " if change.id else ""
                    yield f"    {field:{width}}  {old}{_shown(field, after, self.env)}"


def desired_deployment(
    options: argparse.Namespace,
    environ: Mapping[str, str],
    endpoint: Json,
    template: Json,
    download_bytes: Sizes = lambda _: None,
) -> Deployment:
    """Combine the arguments with the existing endpoint and template, which may be {}.

    Args:
        options: the arguments.
        environ: the environment of this process.
        endpoint: the existing endpoint.
        template: its template.
        download_bytes: returns the size of the model that an environment names, None if unknown.

    Raises:
        InvalidArgument: an argument is invalid or missing, or contradicts the existing endpoint.
    """
    name, preset = endpoint_name(options), options.preset
    existing_type = endpoint and ("QUEUE" if is_queue(endpoint) else "LOAD_BALANCER")
    type = TYPES[options.type] if options.type else existing_type or "QUEUE"
    if endpoint and type != existing_type:
        raise InvalidArgument(
            f"Endpoint {name} has the type {existing_type}, which cannot be changed: delete it "
            f"first (python -m builder delete {name}), or choose another --name."
        )
    base = preset.variables() if preset else {}
    base |= {"MODEL_NAME": options.model} if options.model else {}
    if type == "LOAD_BALANCER" and (base or not endpoint):
        base |= {"SERVE_MODE": "http", "PORT": HTTP_PORT}
    template_env = template.get("env", {}) if template else None
    current = endpoint.get("env", {})
    env = worker_environment(options.env, environ, base, current, template_env)
    if timeout := _init_timeout(options.env, base, env, download_bytes):
        arguments = [f"{INIT_TIMEOUT}={timeout}", *options.env]
        env = worker_environment(arguments, environ, base, current, template_env)
    fields = _desired_fields(options, type, endpoint, env)
    _check_fields(fields, options, name)

    changed = _diff(_flat(endpoint), fields)
    variables = _diff(env.before, {**dict.fromkeys(env.before), **env.values})
    body = _nested(changed)
    if variables or not endpoint:  # a PATCH replaces the whole environment
        body["env"] = env.values
    copy = {f: fields[f] for f in TEMPLATE_FIELDS if f in fields} | {"env": env.public_values()}
    changes = []
    if not template:
        changes.append(Change("template", None, {"name": name, **TEMPLATE_FLAGS, **copy}))
    elif _diff(template, copy):
        changes.append(Change("template", template["id"], copy))
    if not endpoint:
        changes.append(Change("endpoint", None, {"name": name, "type": type, **body}))
    elif body:
        changes.append(Change("endpoint", endpoint["id"], body))
    shown = changed | {f"env.{variable}": variables[variable] for variable in sorted(variables)}
    return Deployment(name, type, env, shown, changes)


def _init_timeout(
    arguments: Sequence[str],
    base: Mapping[str, str],
    env: WorkerEnvironment,
    download_bytes: Sizes,
) -> str | None:
    """Return RUNPOD_INIT_TIMEOUT for other downloads, or for a replaced environment; else None."""
    named, before = downloads_of(env.values), downloads_of(env.before)
    is_given = any(each.partition("=")[0] == INIT_TIMEOUT for each in arguments)
    if not named or is_given or INIT_TIMEOUT in env.values or not (base or named != before):
        return None
    size = download_bytes(env.values)
    if size is None:  # the hub cannot be asked: as it was
        return env.before.get(INIT_TIMEOUT) if named == before else None
    seconds = init_timeout_seconds(size)
    return str(seconds) if seconds else None


def _desired_fields(
    options: argparse.Namespace, type: str, endpoint: Json, env: WorkerEnvironment
) -> Json:
    """Return all fields but the environment: given, existing, or default values."""
    fields = _flat(endpoint or DEFAULTS)
    if type == "LOAD_BALANCER" and env.values != env.before:
        fields["ports"] = [f"{env.values.get('PORT', HTTP_PORT)}/http"]
    if type == "LOAD_BALANCER" and not endpoint:
        batch = env.values.get("MAX_NUM_SEQS", "")
        requests = int(batch) if batch.isdecimal() and int(batch) else REQUESTS_PER_WORKER
        fields["scaling"] = {"type": "REQUEST_COUNT", "requestCount": requests}
    if options.preset:
        fields |= {"gpu.pools": [*options.preset.gpu_pools], "gpu.count": options.preset.gpu_count}
    fields |= {field: value for field, value in vars(options).items() if value is not None}
    return {field: fields[field] for field in DEFAULTS if fields.get(field) is not None}


def _check_fields(fields: Json, options: argparse.Namespace, name: str) -> None:
    new = f"There is no endpoint {name} yet, and a new one needs"
    if "image" not in fields:
        raise InvalidArgument(f"{new} --image REGISTRY/NAME:TAG, the worker's image.")
    if "gpu.pools" not in fields:
        raise InvalidArgument(
            f"{new} --gpu, GPU pools that fit the model, such as ADA_24,AMPERE_24, or a preset."
        )
    low = fields.get("workers.min", 0)
    high = fields.get("workers.max", low)
    given = vars(options)
    if low > high and (given["workers.min"], given["workers.max"]) != (None, None):
        raise InvalidArgument(
            f"workers.min would be {low} and workers.max {high}: give a --min of at most {high}, "
            f"or a --max of at least {low}."
        )


def _diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return old and new value of the fields of `after` that differ."""

    def sort(value: Any) -> Any:
        return sorted(value) if isinstance(value, list) else value

    pairs = {name: (before.get(name), value) for name, value in after.items()}
    return {name: (old, new) for name, (old, new) in pairs.items() if sort(old) != sort(new)}


def _flat(resource: Json) -> Json:
    """Return the fields of an API's object by dotted names."""
    groups = {name: resource.get(name, {}) for name in ("gpu", "workers")}
    return resource | {f"{name}.{key}": v for name in groups for key, v in groups[name].items()}


def _nested(changed: Mapping[str, tuple[Any, Any]]) -> Json:
    """Return changed fields as a nested object of the API."""
    body: Json = {}
    for field, (_, value) in changed.items():
        group, _, key = field.rpartition(".")
        (body.setdefault(group, {}) if group else body)[key] = value
    return body


def _shown(field: str, value: Any, env: WorkerEnvironment) -> str:
    if value is None:
        return "nothing"
    if field.startswith("env."):
        return env.shown(field.removeprefix("env."), value)
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return (json.dumps(value) if isinstance(value, dict) else str(value)) + UNITS.get(field, "")


def gpu_pools(text: str) -> list[str]:
    """Parse Runpod's names of GPU pools, with commas or spaces between them."""
    known = {pool.name: pool for pool in load_gpu_table().pools}
    pools = text.replace(",", " ").upper().split()
    if not pools or not known.keys() >= set(pools):
        names = "; ".join(f"{pool.name} ({pool.label})" for pool in known.values())
        raise InvalidArgument(f"--gpu {text!r} must be one or more of {names}.")
    return pools


def endpoint_name(options: argparse.Namespace) -> str:
    """Return --name, or a name made from the model's.

    Raises:
        InvalidArgument: there is neither, or an argument has spaces.
    """
    for option, text in (("--name", options.name), ("--image", options.image)):
        if text is not None and text.split() != [text]:
            raise InvalidArgument(f"{option} {text!r} must be one word without spaces.")
    model = options.model or (options.preset.model if options.preset else "")
    name: str = options.name or model_slug(model)
    if not name:
        raise InvalidArgument("Give a preset (--help lists them), --model or --name.")
    return name
