"""What each route's body may have, from the request models of the engine's FastAPI app.

Both engines silently ignore other fields in a body; `handler/request/unknown_fields.py` handles
them.
"""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import SchemaValidator

from handler.errors import InvalidInput

LIST_TYPES = ("list", "tuple", "set", "frozenset")  # schemas that can stop at an error


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
        for route in _post_routes(app)
    }


def request_validators(app: FastAPI) -> dict[str, Callable[[bytes], None]]:
    """Return, for each POST path, a check of an encoded body that stops at an invalid list entry.

    The app itself makes an error text for every invalid entry and each type that it could have: for
    a thousand entries of the Responses API 450 MB, in four seconds on its event loop. The checks
    raise InvalidInput.
    """
    return {
        route.path: _check_by(route.body_field.field_info.annotation) for route in _post_routes(app)
    }


def _check_by(annotation: Any) -> Callable[[bytes], None]:
    @functools.cache
    def validator() -> SchemaValidator:
        return SchemaValidator(_stopping_at_errors(TypeAdapter(annotation).core_schema))

    def check(content: bytes) -> None:
        try:
            validator().validate_python(orjson.loads(content))
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            closest = max(errors, key=lambda each: len(each["loc"]))
            names = map(str, closest["loc"])
            where = ".".join(name for name in names if "[" not in name)  # no types of a union
            raise InvalidInput(f"{where}: {closest['msg']}", where.partition(".")[0]) from None
        except Exception:  # an error of the model's own, which the app answers by itself
            return

    return check


def _stopping_at_errors(schema: Any) -> Any:
    """Return a copy of a core schema whose lists stop at their first invalid entry."""
    if isinstance(schema, list | tuple):
        return type(schema)(_stopping_at_errors(each) for each in schema)
    if not isinstance(schema, dict):
        return schema
    copy = {
        name: _stopping_at_errors(value) for name, value in schema.items() if name != "metadata"
    }
    return copy | {"fail_fast": True} if copy.get("type") in LIST_TYPES else copy


def _post_routes(app: FastAPI) -> Iterator[Any]:
    for route in app.routes:
        if isinstance(route, APIRoute) and route.body_field and "POST" in (route.methods or ()):
            yield route


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
