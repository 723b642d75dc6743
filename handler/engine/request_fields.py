"""The names that each route's body may carry, read from the engine's own FastAPI app.

vLLM accepts any field in a body and ignores those it does not know. For the worker's native input
that is not good enough: a misspelt field has to be an error. The engine's request models say which
names exist.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel


def request_fields(app: FastAPI) -> dict[str, frozenset[str]]:
    """Return for each POST path whose body is a pydantic model the names and aliases it takes."""
    return {
        route.path: _names(route.body_field.field_info.annotation)
        for route in app.routes
        if isinstance(route, APIRoute) and route.body_field and "POST" in (route.methods or ())
    }


def _names(annotation: Any) -> frozenset[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return frozenset(
            name
            for field, info in annotation.model_fields.items()
            for name in (field, info.alias)
            if name
        )
    members = getattr(annotation, "__args__", ())
    return frozenset[str]().union(*(_names(member) for member in members))
