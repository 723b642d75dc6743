"""The routes in an engine's source, whatever condition they are registered under, and a form."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

from fastapi.testclient import TestClient

from handler.errors import UnknownRoute
from handler.request.parse import RequestParser
from handler.request.routes import NAMES, find_route

METHODS = {"get", "post", "put", "delete", "patch", "api_route", "websocket", "route", "mount"}
METHODS |= {"add_api_route", "add_route", "add_api_websocket_route"}
ID = re.compile(r"\{[^}]*\}")
FORM_ROUTE = "/v1/audio/transcriptions"
ROOT = "/"  # of the worker's own page; SGLang answers Ollama's clients there


def source_paths(package):
    """Return the paths of all routes that the modules of a package register by a literal."""
    [folder] = find_spec(package).submodule_search_locations
    paths = {
        path
        for file in Path(folder).rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in METHODS
        and call.args
        and (path := _literal(call.args[0])).startswith("/")
    }
    assert len(paths) > 50
    return sorted(paths)


def is_decided(path):
    """Whether a path is allowed, or refused with a reason."""
    if path == ROOT:
        return True
    try:
        find_route(ID.sub("x", path), {path}, in_job=True)
    except UnknownRoute as error:
        return NAMES not in str(error)
    return True


def post_form(app):
    """Post a transcription to an app, as the worker encodes a job's."""
    fields = {"file": "UklGRg==", "language": None, "temperature": 0.5, "stream": False}
    fields["timestamp_granularities"] = ["word", "segment"]
    job = {"id": "j", "input": {"route": FORM_ROUTE, "body": fields}}
    request = RequestParser(("served",), "org/served", {}).parse_job(job).request
    headers = {"content-type": request.content_type}
    answer = TestClient(app).post(FORM_ROUTE, content=request.body, headers=headers)
    assert answer.status_code == 200, answer.text


def _literal(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Call) and len(node.args) == 2:  # os.environ.get(name, path)
        return _literal(node.args[1])
    return ""
