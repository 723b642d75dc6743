"""Which routes callers may use, however they are spelled, and why not the others."""

import pytest

from handler.errors import UnknownRoute
from handler.request.routes import (
    FORMS,
    GET,
    HTTP_NAMES,
    NAMES,
    POST,
    REFUSED,
    Route,
    find_route,
    route_label,
)


@pytest.mark.parametrize("in_job", [True, False], ids=["job", "HTTP"])
@pytest.mark.parametrize("name", [*POST, *GET])
@pytest.mark.parametrize(
    "spelling",
    ["{}", "/{}", "/v1/{}", "/openai/v1/{}", "/v1/{}/", "/v1//{}", "/v1/v1/{}", "/api/v1/{}"],
)
def test_a_route_is_found_with_or_without_its_prefix(name, spelling, in_job):
    """All lead to the engine's own path."""
    method = "POST" if name in POST else "GET"
    found = find_route(spelling.format(name), in_job=in_job)
    assert found == Route(method, {**POST, **GET}[name])


@pytest.mark.parametrize("path", REFUSED)
def test_a_route_of_an_engine_that_is_not_for_callers_says_why(path):
    """As 404, which no client sends again."""
    for spelling in (path, f"/openai{path}", path.removeprefix("/v1")):
        if spelling.strip("/") in POST:
            continue
        with pytest.raises(UnknownRoute) as caught:
            find_route(spelling, in_job=True)
        assert str(caught.value) == f"{spelling} is not for callers: {REFUSED[path]}."


def test_a_route_is_either_allowed_or_refused():
    assert not {*POST.values(), *GET.values()} & REFUSED.keys()
    assert set(POST.values()) > FORMS


@pytest.mark.parametrize("path", ["", "/", "/v1/images/generations", "/v1/chat/completions/x"])
@pytest.mark.parametrize(
    ("in_job", "names", "param"), [(True, NAMES, "route"), (False, HTTP_NAMES, None)]
)
def test_any_other_path_is_a_404_that_names_the_allowed_routes(path, in_job, names, param):
    with pytest.raises(UnknownRoute) as caught:
        find_route(path, in_job=in_job)
    assert str(caught.value) == f"There is no route {path!r}. Routes: {names}."
    assert (caught.value.status, caught.value.param) == (404, param)


@pytest.mark.parametrize(
    ("path", "in_job", "model"),
    [
        ("/v1/models/llama", True, "llama"),
        ("/v1/models/org/name", True, "org/name"),
        ("models/org/name/", True, "org/name"),
        ("/openai/v1/models/org%2Fname", True, "org/name"),
        ("/v1/models/org/name", False, "org/name"),  # the server has decoded it
        ("/v1/models/50%25", False, "50%25"),
    ],
)
def test_one_model_is_asked_for_by_its_name(path, in_job, model):
    """Names hold slashes; a job has the path as the client has written it."""
    assert find_route(path, in_job=in_job) == Route("GET", "/v1/models", model)


@pytest.mark.parametrize(
    ("path", "method", "engine_path"),
    [
        ("/v1/responses/resp_1.5-a", "GET", "/v1/responses/resp_1.5-a"),
        ("/openai/v1/responses/resp_1/cancel", "POST", "/v1/responses/resp_1/cancel"),
    ],
)
def test_a_response_is_found_over_http_only(path, method, engine_path):
    """A job may reach a worker that has never heard of it."""
    assert find_route(path, in_job=False) == Route(method, engine_path, has_body=False)
    with pytest.raises(UnknownRoute, match="stored in the worker that created it"):
        find_route(path, in_job=True)


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "a?b", "é", "a/cancel/b"])
def test_the_id_of_a_response_leads_nowhere_else(name):
    """Nothing but the id of a response goes into the engine's path."""
    with pytest.raises(UnknownRoute):
        find_route(f"/v1/responses/{name}", in_job=False)


@pytest.mark.parametrize(
    ("path", "engine_paths", "found"),
    [
        ("/v1/classify", {"/classify", "/v1/classify"}, "/v1/classify"),
        ("/v1/classify", {"/classify"}, "/classify"),
        ("/classify", {"/classify", "/v1/classify"}, "/classify"),
    ],
    ids=["SGLang", "vLLM", "SGLang's own"],
)
def test_an_engine_with_two_routes_of_a_name_is_asked_as_it_is_spelled(path, engine_paths, found):
    """SGLang's `/classify` takes its own input, its `/v1/classify` OpenAI's."""
    assert find_route(path, engine_paths, in_job=True).path == found


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/v1/responses", "/v1/responses"),
        ("/v1/responses/resp_1", "/v1/responses/ID"),
        ("/v1/responses/resp_1/cancel", "/v1/responses/ID/cancel"),
    ],
)
def test_a_label_of_the_metrics_has_no_id(path, label):
    """Each label is a series for as long as the worker lives."""
    assert route_label(path) == label
