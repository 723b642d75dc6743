"""The fields that each route's body may have, from the request models of the engine's FastAPI app.

vLLM ignores unknown fields in a body. In the worker's native input a misspelt field is an error.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel


def request_fields(app: FastAPI) -> dict[str, frozenset[str]]:
    """Return, for each POST path whose body is a pydantic model, its field names and aliases."""
    return {
        route.path: _field_names(route.body_field.field_info.annotation)
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
