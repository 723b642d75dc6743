"""What is wanted beside what is there: the steps between them, to be shown and to be taken."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from builder.deploy.api import Api, Noun, Thing
from builder.deploy.names import is_secret, known_names
from builder.deploy.privacy import shared
from builder.deploy.screen import STARS
from builder.deploy.wanted import BOUND, FIELDS, TEMPLATE_FIELDS, UNORDERED, Wanted, at, nested

NOTHING = object()  # a field that is not there
UNITS = {"disk": " GB", "timeout": " ms", "workers.idleTimeout": " s"}


@dataclass(frozen=True)
class Change:
    """One field that becomes another; NOTHING where there is none before, or none after."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Step:
    """What is to be done to the endpoint, or to its template.

    Attributes:
        noun: which of them.
        name: of both.
        id: of the one that is there, None if it is to be created.
        changes: the fields that differ; none if there is nothing to do.
        variables: the whole environment that it will have.
        more: fields that are sent when it is created, and not compared.
    """

    noun: Noun
    name: str
    id: str | None
    changes: tuple[Change, ...]
    variables: Mapping[str, str]
    more: Mapping[str, Any]

    def body(self) -> dict[str, Any]:
        """Return what is sent: all of a new one, of another what changes."""
        fields = {
            change.field: change.after
            for change in self.changes
            if not change.field.startswith("env.")
        }
        if len(fields) < len(self.changes):
            fields["env"] = dict(self.variables)  # it is replaced whole
        return nested(fields) if self.id else {"name": self.name, **self.more, **nested(fields)}

    def take(self, api: Api) -> Thing:
        """Do it; return the thing as the API describes it then."""
        if self.id is None:
            return api.create(self.noun, self.body())
        return api.update(self.noun, self.id, self.body())

    def lines(self, hidden: frozenset[str], hidden_before: frozenset[str]) -> Iterator[str]:
        """Give the step as lines, with stars for the values of variables that are hidden."""
        yield f"  {'create' if self.id is None else 'change'} {self.noun} {self.name}" + (
            f" ({self.id})" if self.id else ""
        )
        width = max(len(change.field) for change in self.changes)
        for change in self.changes:
            shown = _shown(change.field, change.after, hidden)
            if self.id is not None:
                # What was given for another name may have been somebody's secret.
                name = change.field.removeprefix("env.")
                is_known = name in known_names() | self.variables.keys()
                before = hidden_before if is_known else {name}
                shown = f"{_shown(change.field, change.before, before)} → {shown}"
            yield f"    {change.field:{width}}  {shown}"


def endpoint_step(wanted: Wanted) -> Step:
    """Compare the endpoint that is wanted with the one that is there."""
    there = wanted.there
    return Step(
        "endpoint",
        wanted.name,
        None if there is None else str(there["id"]),
        _changes(wanted.endpoint(), there, wanted.variables()),
        wanted.variables(),
        {"type": wanted.kind},
    )


def template_step(wanted: Wanted, there: Thing | None) -> Step:
    """Compare the template with the container that the endpoint will have.

    It has no secrets: whoever makes another endpoint of it brings their own.
    """
    fields = {name: at(wanted.there or {}, name) for name in TEMPLATE_FIELDS} | wanted.endpoint()
    if wanted.environment is None and there is not None:
        variables = dict(there.get("env") or {})  # nothing was said of it
    else:
        variables = shared(wanted, there)
    kept = {name: fields[name] for name in TEMPLATE_FIELDS if fields[name]}
    id = None if there is None else str(there["id"])
    return Step("template", wanted.name, id, _changes(kept, there, variables), variables, BOUND)


def _changes(
    fields: Mapping[str, Any], there: Thing | None, variables: Mapping[str, str]
) -> tuple[Change, ...]:
    changes = []
    for name in FIELDS:
        if name in fields:
            before = NOTHING if there is None else at(there, name)
            if not _same(name, before, fields[name]):
                changes.append(Change(name, before, fields[name]))
    before_variables = dict((there or {}).get("env") or {})
    for name in sorted(before_variables.keys() | variables.keys()):
        before, after = before_variables.get(name, NOTHING), variables.get(name, NOTHING)
        if before != after:
            changes.append(Change(f"env.{name}", before, after))
    return tuple(changes)


def _same(name: str, before: Any, after: Any) -> bool:
    if name in UNORDERED and isinstance(before, list):
        return sorted(before) == sorted(after)
    return bool(before == after)


def _shown(field: str, value: Any, secret: Collection[str]) -> str:
    name = field.removeprefix("env.")
    if value is NOTHING or value is None:
        return "nothing"
    if field.startswith("env."):
        return STARS if name in secret or is_secret(name, str(value)) else str(value)
    if isinstance(value, list):
        return ", ".join(value) or "none"
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return text + UNITS.get(field, "")
