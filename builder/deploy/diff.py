"""The difference between what exists and what should be: shown first, then carried out."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from builder.cli import STARS
from builder.deploy.api import Api
from builder.deploy.endpoint_config import Desired
from builder.deploy.environment import is_secret, known_variables
from builder.deploy.models import Endpoint, Resource, Template

FIELDS = (
    *("image", "disk", "ports", "gpu.pools", "gpu.count", "gpu.minCudaVersion"),
    *("workers.min", "workers.max", "workers.idleTimeout", "scaling"),
    *("timeout", "flashboot", "networkVolumes"),
)
UNITS = {"disk": " GB", "timeout": " ms", "workers.idleTimeout": " s"}
TEMPLATE_FLAGS = {"serverless": True, "public": False, "startSsh": False, "startJupyter": False}


@dataclass(frozen=True)
class Step:
    """The creation or change of the endpoint or its template.

    Attributes:
        current: None if it is to be created.
        changes: before and after of each field that differs, None for what is not there.
        config: the whole desired configuration.
    """

    kind: type[Resource]
    current: Resource | None
    changes: Mapping[str, tuple[Any, Any]]
    config: Mapping[str, Any]
    desired: Desired

    def apply(self, api: Api) -> Resource:
        if self.current is not None:
            return api.update(self.current, self.body())
        fixed = TEMPLATE_FLAGS if self.kind is Template else {"type": self.desired.type}
        return api.create(self.kind, {"name": self.desired.name, **fixed, **self.body()})

    def body(self) -> dict[str, Any]:
        """Return the changed fields as the API's objects have them."""
        body: dict[str, Any] = {}
        for field, (_, after) in self.changes.items():
            first, _, rest = field.partition(".")
            if first == "env":  # a PATCH replaces it whole
                body["env"] = {
                    name.removeprefix("env."): value
                    for name, value in self.config.items()
                    if name.startswith("env.")
                }
            elif rest:
                body.setdefault(first, {})[rest] = after
            else:
                body[field] = after
        return body

    def lines(self) -> Iterator[str]:
        """Give the step as text, with stars in place of hidden values."""
        verb, id = ("change", f" ({self.current.id})") if self.current else ("create", "")
        yield f"  {verb} {self.kind.noun} {self.desired.name}{id}"
        width = max(map(len, self.changes), default=0)
        for field, (before, after) in self.changes.items():
            name = field.removeprefix("env.")
            text = _shown(field, after, name in self.desired.hidden)
            if self.current:
                # An unknown variable that is removed may have been somebody's secret.
                is_unknown = name not in known_variables() and field not in self.config
                is_hidden = is_unknown or name in self.desired.hidden_before
                text = f"{_shown(field, before, is_hidden)} → {text}"
            yield f"    {field:{width}}  {text}"


def steps_to(desired: Desired) -> list[Step]:
    """Return the steps that are needed, the template's first."""
    steps = (
        _step(Template, desired.current_template, desired.template, desired),
        _step(Endpoint, desired.current, desired.endpoint, desired),
    )
    return [step for step in steps if step.changes or step.current is None]


def _step(
    kind: type[Resource], current: Resource | None, config: Mapping[str, Any], desired: Desired
) -> Step:
    before = current.config() if current else {}
    variables = sorted(name for name in before.keys() | config.keys() if name.startswith("env."))
    fields = [name for name in FIELDS if name in config] + variables
    pairs = {name: (before.get(name), config.get(name)) for name in fields}
    changes = {name: pair for name, pair in pairs.items() if _sorted(pair[0]) != _sorted(pair[1])}
    return Step(kind, current, changes, config, desired)


def _sorted(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def _shown(field: str, value: Any, is_hidden: bool) -> str:
    if value is None:
        return "nothing"
    if field.startswith("env."):
        return STARS if is_hidden or is_secret(field.removeprefix("env."), value) else str(value)
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return (json.dumps(value) if isinstance(value, dict) else str(value)) + UNITS.get(field, "")
