"""The fields that each route's body may have, from the request models of the engine's FastAPI app.

Both engines silently ignore other fields in a body; `handler/request/unknown_fields.py` handles
them.
"""

from collections.abc import Collection, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel


def request_fields(
    app: FastAPI,
    *,
    without: Mapping[str, Collection[str]] | None = None,
    also: Mapping[str, Collection[str]] | None = None,
) -> dict[str, frozenset[str]]:
    """Return, for each POST path whose body is a pydantic model, its field names and aliases.

    Args:
        app: the engine's.
        without: by path, fields of the model that the engine does not read.
        also: by path, fields that the engine reads although the model does not have them.
    """
    without, also = without or {}, also or {}
    return {
        route.path: _field_names(route.body_field.field_info.annotation)
        .difference(without.get(route.path, ()))
        .union(also.get(route.path, ()))
        for route in app.routes
        if isinstance(route, APIRoute) and route.body_field and "POST" in (route.methods or ())
    }


def _field_names(annotation: Any) -> frozenset[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return frozenset(
            name
            for field, info in annotation.model_fields.items()
            for name in (field, info.alias)
            if name
        )
    members = getattr(annotation, "__args__", ())
    return frozenset[str]().union(*(_field_names(member) for member in members))
