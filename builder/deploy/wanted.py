"""What is asked for: fields that were said, and fields that a new endpoint has beside them.

A field is named by its path in the API's objects, such as `workers.max`. What was not said stays
as it is on an endpoint that is there. The environment is said as a whole, see `environment.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.deploy.api import Kind, Thing
from builder.deploy.environment import HTTP_PORT, Environment
from builder.errors import InvalidArgument
from builder.hub_listing import CUDA_VERSIONS, DISK_GB

TEMPLATE_FIELDS = ("image", "disk", "ports")
FIELDS = (
    *TEMPLATE_FIELDS,
    *("gpu.pools", "gpu.count", "gpu.minCudaVersion"),
    *("workers.min", "workers.max", "workers.idleTimeout", "scaling"),
    *("timeout", "flashboot", "networkVolumes"),
)
UNORDERED = ("gpu.pools", "networkVolumes")
QUEUE_DELAY_SECONDS = 4
REQUESTS_OF_A_WORKER = 32  # unless MAX_NUM_SEQS says how many are one batch
BOUND = {"serverless": True, "public": False, "startSsh": False, "startJupyter": False}


@dataclass(frozen=True)
class Wanted:
    """An endpoint as it is asked for.

    Attributes:
        name: of the endpoint and its template.
        kind: queue or load balancer.
        said: fields that were said.
        environment: what was said of it, None if nothing was.
        there: the endpoint of that name, None if there is none.
    """

    name: str
    kind: Kind
    said: Mapping[str, Any]
    environment: Environment | None
    there: Thing | None = field(default=None, repr=False)

    def variables(self) -> dict[str, str]:
        """Return the environment that its workers will have."""
        before = dict((self.there or {}).get("env") or {})
        return before if self.environment is None else self.environment.beside(before)

    def endpoint(self) -> dict[str, Any]:
        """Return its fields but the environment: said ones, and the others of a new endpoint.

        Raises:
            InvalidArgument: a new endpoint needs more, or fields contradict each other.
        """
        fields = dict(self.said)
        if self.kind == "LOAD_BALANCER" and self.environment is not None:
            fields["ports"] = [f"{self.variables().get('PORT', HTTP_PORT)}/http"]
        if self.there is None:
            for name, option in (("image", "--image"), ("gpu.pools", "--gpu")):
                if name not in fields:
                    raise InvalidArgument(f"There is no endpoint {self.name} yet: {NEEDS[option]}")
            fields = self._defaults() | fields
        self._check_workers(fields)
        return fields

    def gpus(self) -> int:
        """Return how many GPUs a worker will have."""
        count = self.said.get("gpu.count") or at(self.there or {}, "gpu.count")
        return int(count or 1)

    def _check_workers(self, fields: Mapping[str, Any]) -> None:
        names = ("workers.min", "workers.max")
        least, most = (fields.get(name, at(self.there or {}, name)) for name in names)
        if not self.said.keys() & set(names) or least is None or most is None or least <= most:
            return
        raise InvalidArgument(
            f"workers.min would be {least} and workers.max {most}: give a --min of at most {most}, "
            f"or a --max of at least {least}."
        )

    def _defaults(self) -> dict[str, Any]:
        return {
            "disk": DISK_GB,
            "gpu.count": 1,
            # The image's CUDA: an older driver cannot run it.
            "gpu.minCudaVersion": min(CUDA_VERSIONS, key=lambda v: tuple(map(int, v.split(".")))),
            "workers.min": 0,
            "workers.max": 3,
            "workers.idleTimeout": 5,
            "scaling": self._scaling(),
            "timeout": 600_000,
            "flashboot": "FLASHBOOT",
            "networkVolumes": [],
        }

    def _scaling(self) -> dict[str, Any]:
        if self.kind == "QUEUE":
            return {"type": "QUEUE_DELAY", "queueDelay": QUEUE_DELAY_SECONDS}
        batch = self.variables().get("MAX_NUM_SEQS", "")
        count = int(batch) if batch.isdecimal() and int(batch) else REQUESTS_OF_A_WORKER
        return {"type": "REQUEST_COUNT", "requestCount": count}


NEEDS = {
    "--image": "give the worker's image, --image REGISTRY/NAME:TAG (see README, The image).",
    "--gpu": "give GPU pools that fit the model, such as --gpu ADA_24,AMPERE_24, or a preset.",
}


def at(thing: Thing, path: str) -> Any:
    """Return what a thing has at a path, None if there is nothing."""
    value: Any = thing
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as the API's objects have them."""
    made: dict[str, Any] = {}
    for path, value in fields.items():
        first, _, rest = path.partition(".")
        if rest:
            made.setdefault(first, {})[rest] = value
        else:
            made[first] = value
    return made
