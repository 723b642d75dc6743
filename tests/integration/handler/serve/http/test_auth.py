"""API keys, and what a web page may do without one."""

import json

import pytest
from starlette.datastructures import Headers

from handler.errors import InvalidSetting, Unauthorized
from handler.serve.http.auth import ApiKeys
from handler.serve.http.lifecycle import HttpFrontEnd
from handler.settings.environ import load_settings
from tests.support.http_front_end import PROMPT, RunningFrontEnd, message


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer three"}, 401),
        ({"Authorization": "Bearer one,two"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer one"}, 200),
        ({"Authorization": "bearer two"}, 200),
        ({"Authorization": "two"}, 200),
        ({"x-api-key": "two"}, 200),
        ({"Authorization": "Bearer of-the-gateway", "x-api-key": "two"}, 200),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/health"])
def test_one_of_the_keys_is_needed(shared_http, headers, status, path):
    """As OpenAI's clients send it, or Anthropic's."""
    answer = shared_http.call("GET", path, key=None, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert "server" not in answer.headers


def test_without_a_key_the_start_is_refused():
    """Unless nobody can reach it, the platform's gateway is in front, or it is meant."""
    with pytest.raises(
        InvalidSetting, match="API_KEY is not set, so anyone who can reach this port"
    ):
        HttpFrontEnd(load_settings({"PORT": "1"}))
    for meant in (
        {"HTTP_HOST": "127.0.0.1"},
        {"ALLOW_UNAUTHENTICATED": "1"},
        {"RUNPOD_ENDPOINT_ID": "e"},
    ):
        with RunningFrontEnd(API_KEY="", **meant) as http:
            assert http.open().call("GET", "/v1/models", key=None).status_code == 200


@pytest.mark.parametrize("keys", ['["one", "two"]', "'one','two'"], ids=["JSON", "quotes"])
def test_the_marks_of_a_list_are_no_part_of_a_key(keys):
    """Each request would get 401."""
    with pytest.raises(InvalidSetting, match="API_KEY must be one or several keys, separated by"):
        HttpFrontEnd(load_settings({"PORT": "1", "API_KEY": keys}))


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        *(("localhost", True), ("LOCALHOST:80", True), ("127.0.0.1:8000", True)),
        *(("[::1]", True), ("[::1]:8000", True), ("", False)),
        *(("a.example", False), ("127.0.0.1.a.example", False), ("[::1", False)),
    ],
)
def test_a_host_header_must_name_this_machine(host, passes):
    """With a port or without."""
    keys = ApiKeys([])
    if passes:
        keys.check(Headers({"host": host}))
    else:
        with pytest.raises(Unauthorized):
            keys.check(Headers({"host": host}))


@pytest.mark.parametrize("origin", ["https://a.example", "null", "http://127.0.0.1:1"])
def test_without_a_key_no_page_of_elsewhere_may_use_the_model(origin):
    """A browser sends a plain text without asking first; the worker's own page may."""
    with RunningFrontEnd(API_KEY="", HTTP_HOST="127.0.0.1") as http:
        http.open()
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        body = json.dumps(PROMPT)
        call = ("POST", "/v1/completions", None)
        assert http.call(*call, headers=headers, content=body).status_code == 401
        moved = {"Host": "a.example", "Origin": "http://a.example"}
        answer = http.call(*call, headers=moved, json=PROMPT)
        assert (answer.status_code, message(answer)) == (
            *(401, "The host must be localhost or 127.0.0.1."),
        )
        own = headers | {"Origin": http.url}
        assert http.call(*call, headers=own, content=body).status_code == 200


def test_a_page_that_is_named_may_use_the_model_and_no_other():
    """Nor one whose name has been made to lead here; `*` is any."""
    named = {"Origin": "https://a.example"}
    others = ({"Origin": "https://c.example"}, {"Host": "c.example:8000"})
    for cors_origins, codes in (("https://a.example", [200, 401, 401]), ("*", [200, 200, 200])):
        with RunningFrontEnd(API_KEY="", HTTP_HOST="127.0.0.1", CORS_ORIGINS=cors_origins) as http:
            http.open()
            answers = [
                http.call("POST", "/v1/completions", None, headers=headers, json=PROMPT)
                for headers in (named, *others)
            ]
            assert [each.status_code for each in answers] == codes


def test_no_other_page_may_call_it_unless_it_is_named(http):
    """CORS is off by default."""
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    off = http.call("OPTIONS", "/v1/completions", headers=preflight)
    assert (off.status_code, "access-control-allow-origin" in off.headers) == (405, False)
    with RunningFrontEnd(CORS_ORIGINS="https://a.example, https://b.example") as open_http:
        answers = [
            open_http.call("OPTIONS", "/v1/completions", headers=preflight | {"Origin": origin})
            for origin in ("https://a.example", "https://c.example")
        ]
    assert [each.headers.get("access-control-allow-origin") for each in answers] == [
        "https://a.example",
        None,
    ]
