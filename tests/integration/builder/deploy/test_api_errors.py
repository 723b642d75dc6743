"""API failures: one sentence with an exit code, and nothing is created twice."""

import pytest

from tests.integration.builder.deploy.conftest import CHAT
from tests.support.http_worker import free_port
from tests.support.runpod_api import Fault


def test_several_endpoints_of_a_name_are_an_error_with_their_ids(api, builder):
    api.endpoints = {id: {"id": id, "name": "chat"} for id in ("ep-a", "ep-b")}
    sentence = (
        "There are 2 endpoints named chat (ep-a, ep-b): delete or rename all but one in Runpod's "
        "console.\n"
    )
    for name, arguments in (("deploy", CHAT), ("status", ["chat"]), ("delete", ["chat", "--yes"])):
        assert builder(name, *arguments) == (2, "", f"{name}: {sentence}")
    assert api.changes() == []


def test_a_volume_that_is_not_there(api, builder):
    code, _, err = builder("deploy", *CHAT, "--volume", "vol-9")
    assert (code, err) == (
        5,
        "deploy: Runpod cannot find network volume vol-9, or RUNPOD_API_KEY has no access to it "
        "(resource not found).\n",
    )
    assert api.changes() == []


CONSOLE = "in Runpod's console, under Settings and API Keys"


@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        pytest.param(
            Fault("POST", "/v2/serverless", 401, "invalid bearer token"),
            3,
            "RUNPOD_API_KEY is not valid (invalid bearer token): create a key in Runpod's console, "
            "under Settings and API Keys, and export it.",
            id="401",
        ),
        pytest.param(
            Fault("POST", "/v2/serverless", 402, "payment required"),
            4,
            "The account has no credit (payment required): add some in Runpod's console, under "
            "Billing.",
            id="402",
        ),
        pytest.param(
            Fault("POST", "/v2/serverless", 400, "balance is too low to create an endpoint"),
            4,
            "The account has no credit (balance is too low to create an endpoint): add some in "
            "Runpod's console, under Billing.",
            id="400-credit",
        ),
        pytest.param(
            Fault("POST", "/v2/serverless", 403, "access denied"),
            3,
            "RUNPOD_API_KEY has no access to endpoint chat (access denied): give the key read and "
            f"write access {CONSOLE}.",
            id="403",
        ),
        pytest.param(
            Fault("POST", "/v2/serverless", 400, "gpu.pools: there is no pool ADA_23"),
            6,
            "Runpod refuses endpoint chat with 400: gpu.pools: there is no pool ADA_23.",
            id="400",
        ),
        pytest.param(
            Fault(
                *("POST", "/v2/serverless", 422, "Request validation failed."),
                errors=("disk is less than 1", "name is empty"),
            ),
            6,
            "Runpod refuses endpoint chat with 422: Request validation failed: disk is less than "
            "1; name is empty.",
            id="422",
        ),
        pytest.param(
            Fault("POST", "/v2/serverless", 429, "rate limit exceeded", times=9),
            7,
            "Runpod answers 429 for endpoint chat (rate limit exceeded).",
            id="429",
        ),
        pytest.param(
            Fault("POST", "/v2/serverless", 429, "slow", headers={"Retry-After": "3600"}),
            7,
            "Runpod answers 429 for endpoint chat (slow), and asks to wait 3600 s.",
            id="429-for-an-hour",
        ),
        pytest.param(
            Fault("POST", "/v2/serverless", 503, "upstream", times=9),
            7,
            "Runpod fails with 503 for endpoint chat (upstream).",
            id="503",
        ),
        pytest.param(
            Fault("GET", "/v2/serverless", 500, "upstream", times=9),
            7,
            "Runpod fails with 500 for the list of endpoints (upstream).",
            id="500-of-a-list",
        ),
    ],
)
def test_a_failure_is_one_sentence_with_its_own_code(fault, code, sentence, api, builder):
    api.faults = [fault]
    got, _, err = builder("deploy", *CHAT)
    assert (got, err) == (code, f"deploy: {sentence}\n")
    assert api.endpoints == {}


def test_a_wrong_key_a_missing_key_and_a_key_of_two_words(builder):
    assert builder("status", "chat", RUNPOD_API_KEY="rpa_wrong") == (
        3,
        "",
        "status: RUNPOD_API_KEY is not valid (invalid bearer token): create a key in Runpod's "
        "console, under Settings and API Keys, and export it.\n",
    )
    assert builder("status", "chat", RUNPOD_API_KEY=" ") == (
        3,
        "",
        "status: RUNPOD_API_KEY is not set: create a key in Runpod's console, under Settings and "
        "API Keys, and export it.\n",
    )
    assert builder("status", "chat", RUNPOD_API_KEY="two words") == (
        3,
        "",
        "status: RUNPOD_API_KEY must be one word without spaces or line breaks.\n",
    )


def test_an_address_where_nobody_is_and_one_that_is_not_safe(builder):
    port = free_port()
    code, _, err = builder("status", "chat", RUNPOD_API_URL=f"http://127.0.0.1:{port}")
    assert (code, err) == (
        7,
        f"status: 127.0.0.1:{port} cannot be reached: check the network, and RUNPOD_API_URL.\n",
    )
    for address in ("http://api.example", "https://", "https://[::1", "https://api..example"):
        assert builder("status", "chat", RUNPOD_API_URL=address) == (
            2,
            "",
            f"status: RUNPOD_API_URL='{address}' must be an https URL: the key is sent there.\n",
        )


@pytest.mark.parametrize("answer", ["hello", {}, {"endpoints": [{"name": "chat"}]}])
def test_an_address_where_something_else_answers(answer, api, builder):
    api.faults = [Fault("GET", "/v2/serverless", 200, body=answer)]
    assert builder("status", "chat") == (
        7,
        "",
        "status: The answer for the list of endpoints is not Runpod's: check RUNPOD_API_URL.\n",
    )


def test_a_busy_api_is_asked_again_after_the_time_that_it_names(api, builder):
    api.faults = [
        Fault("POST", "/v2/serverless", 429, "slow", headers={"Retry-After": "1"}),
        Fault("GET", "/v2/templates", 502, "upstream"),
    ]
    code, out, err = builder("deploy", *CHAT, "--wait", "0")
    assert (code, err) == (0, "")
    assert out.startswith(
        "Runpod fails with 502 for the list of templates (upstream). Trying again in 0.01 s.\n"
    )
    assert (
        "Runpod answers 429 for endpoint chat (slow), and asks to wait 1 s. Trying again in 1 s.\n"
        "created endpoint chat"
    ) in out


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("POST", "/v2/serverless", 504, "timeout", after=True), id="504"),
        pytest.param(Fault("POST", "/v2/serverless", after=True, cut=True), id="cut"),
    ],
)
def test_an_endpoint_whose_creation_had_no_answer_is_not_created_twice(fault, api, builder):
    api.faults = [fault]
    code, out, err = builder("deploy", *CHAT, "--wait", "0")
    assert (code, err) == (0, "")
    assert "created endpoint chat (ep-4)\n" in out
    assert api.changes() == [("POST", "/v2/templates"), ("POST", "/v2/serverless")]


def test_a_creation_that_did_not_happen_is_tried_again(api, builder):
    api.faults = [Fault("POST", "/v2/serverless", cut=True)]
    code, _, err = builder("deploy", *CHAT, "--wait", "0")
    assert (code, err) == (0, "")
    asked = [(method, path) for method, path, _ in api.asked]
    assert asked[3:] == [
        ("POST", "/v2/serverless"),
        ("GET", "/v2/serverless"),
        ("POST", "/v2/serverless"),
    ]
    assert len(api.endpoints) == 1
