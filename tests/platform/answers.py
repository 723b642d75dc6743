"""Answers and checks that both sides of the API share."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error(status: int, message: str) -> web.Response:
    """Answer with an error. The real platform's texts are not known."""
    return web.json_response({"error": message}, status=status)


def parsed(body: bytes) -> Any:
    """Parse a JSON body, whatever its content type says; ValueError if it is none."""
    return json.loads(body.decode("utf-8"))
