"""Errors of huggingface-hub: which ones are retried, and what reaches the log."""

import socket
import time
from email.utils import formatdate

import httpx
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from handler.errors import InvalidSetting, ModelUnavailable
from handler.model.hub_errors import TransferStalled, hub_errors_explained, reason_of, retry
from handler.model.reference import HubReference


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("404 for url 'http://cdn/model?signature=x' More", "404 for url 'http://cdn/model…' More"),
        ("Illegal header value b'Bearer hf_one\nhf_two'", "Illegal header value b'Bearer …"),
        ("two\n lines", "two lines"),
        ("", "OSError"),
        ("x" * 300, "x" * 200),
    ],
    ids=["signature", "token", "lines", "empty", "long"],
)
def test_a_reason_is_one_line_without_secrets(message, reason):
    assert reason_of(OSError(message)) == reason


class Calls:
    """Fails with the given errors, one after the other, then returns "done"."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.count = 0

    def __call__(self):
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_a_broken_connection_is_retried_as_often_as_there_are_waits():
    calls = Calls(ConnectionResetError(), TimeoutError())
    assert retry(calls, waits_seconds=(0, 0)) == "done"
    calls = Calls(*[ConnectionResetError()] * 3)
    with pytest.raises(ConnectionResetError):
        retry(calls, waits_seconds=(0, 0))
    assert calls.count == 3


def test_retries_start_anew_while_there_is_progress():
    calls = Calls(*[ConnectionResetError()] * 5)
    assert retry(calls, progress=lambda: calls.count, waits_seconds=(0,)) == "done"


def test_a_full_disk_is_not_retried():
    calls = Calls(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        retry(calls, waits_seconds=(0, 0))
    assert calls.count == 1


def test_a_retry_is_announced_with_its_reason(caplog):
    error = socket.gaierror(-2, "Name or service not known")
    assert retry(Calls(error), waits_seconds=(0,)) == "done"
    assert caplog.messages == [
        "the hub cannot be reached ([Errno -2] Name or service not known), trying again in 0 s"
    ]


def answer(status, **headers):
    request = httpx.Request("GET", "https://huggingface.co/api/models/org/m")
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return HfHubHTTPError("no", response=httpx.Response(status, headers=headers, request=request))


def not_in_cache(cause):
    """The form in which huggingface-hub hides the answer to a HEAD request."""
    error = OSError("not in the cache")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (answer(429, retry_after="20"), 21),
        (answer(429, ratelimit='"api";r=0;t=55'), 56),
        (answer(429, ratelimit='"api";r=0;t=55', retry_after="3"), 56),
        (answer(503, retry_after="5"), 6),
        (not_in_cache(answer(429, retry_after="20")), 21),
        (answer(429), 4),
        (answer(500, retry_after="20"), 4),
        (answer(429, retry_after="0"), 4),
        (answer(429, retry_after="-5"), 4),
        (answer(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), 4),
        (answer(429, retry_after="Wed, 21 Oct 99999 07:28:00 GMT"), 4),
    ],
    ids=[
        *("Retry-After", "RateLimit", "both", "503", "a HEAD request", "neither", "500"),
        *("zero", "negative", "a date that has passed", "no date"),
    ],
)
def test_the_wait_is_what_the_hub_asks_for(error, wait):
    slept = []
    assert retry(Calls(error), waits_seconds=(4,), sleep=slept.append) == "done"
    assert slept == [wait]


def test_the_wait_may_be_asked_for_as_a_date():
    slept = []
    error = answer(429, retry_after=formatdate(time.time() + 100, usegmt=True))
    assert retry(Calls(error), waits_seconds=(4,), sleep=slept.append) == "done"
    assert 90 < slept[0] <= 100


def test_a_wait_beyond_all_bounds_is_not_begun():
    slept = []
    calls = Calls(answer(429, retry_after="9" * 500))
    with pytest.raises(HfHubHTTPError):
        retry(calls, waits_seconds=(1,), sleep=slept.append)
    assert (calls.count, slept) == (1, [])


def test_a_name_with_a_revision_says_where_that_goes():
    with (
        pytest.raises(InvalidSetting) as caught,
        hub_errors_explained(HubReference("org/m:v1")),
    ):
        raise HFValidationError
    assert str(caught.value) == (
        "MODEL_NAME='org/m:v1' must be the name of a repository (org/name), and there is no such "
        "local folder; a revision such as 'v1' goes into MODEL_REVISION."
    )


def test_a_file_that_cannot_be_stored_is_named():
    with pytest.raises(ModelUnavailable) as caught, hub_errors_explained(HubReference("org/m")):
        raise NotADirectoryError(20, "Not a directory", "/file/hub")
    assert str(caught.value) == "org/m could not be stored: Not a directory (/file/hub)."


def test_waits_that_the_hub_asks_for_are_no_failures_but_bounded():
    slept = []
    errors = [answer(429, retry_after="60") for _ in range(9)]
    with pytest.raises(HfHubHTTPError):
        retry(Calls(*errors), waits_seconds=(1,), sleep=slept.append)
    assert slept == [61] * 5


@pytest.mark.parametrize("wrap", [lambda error: error, not_in_cache], ids=["GET", "HEAD"])
def test_a_rate_limit_is_explained(wrap):
    with (
        pytest.raises(ModelUnavailable) as caught,
        hub_errors_explained(HubReference("org/m")),
    ):
        raise wrap(answer(429, retry_after="3600"))
    assert str(caught.value) == (
        "org/m: the hub answered 429, too many requests and asks to wait 3601 s: try again later, "
        "or with HF_TOKEN, which has a higher limit."
    )


@pytest.mark.parametrize(
    "error",
    [
        TransferStalled("no data for 90 s"),
        httpx.ConnectTimeout(""),
        not_in_cache(httpx.ReadTimeout("")),
    ],
    ids=["transfer", "connect", "HEAD"],
)
def test_what_is_silent_twice_is_not_tried_again(error):
    slept = []
    calls = Calls(*[error] * 3)
    with pytest.raises(type(error)):
        retry(calls, waits_seconds=(0, 0, 0), sleep=slept.append)
    assert calls.count == 2


@pytest.mark.parametrize("wrap", [lambda error: error, not_in_cache], ids=["GET", "HEAD"])
def test_a_hub_that_is_silent_is_not_one_that_cannot_be_reached(wrap):
    with (
        pytest.raises(ModelUnavailable) as caught,
        hub_errors_explained(HubReference("org/m")),
    ):
        raise wrap(httpx.ReadTimeout(""))
    assert str(caught.value).endswith(" accepted the connection and sent no data.")


def refusal(kind, status=401):
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api"))
    return kind("no", response=response)


def cdn_refusal():
    request = httpx.Request("GET", "https://cdn.example/file")
    return HfHubHTTPError("no", response=httpx.Response(403, request=request))


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (refusal(GatedRepoError), True),
        (refusal(RevisionNotFoundError, 404), True),
        (answer(401), True),
        (not_in_cache(answer(403)), True),
        (cdn_refusal(), False),
        (answer(429), False),
        (answer(503), False),
        (not_in_cache(answer(500)), False),
        (TransferStalled("no data"), False),
        (OfflineModeIsEnabled(), False),
        (httpx.ReadTimeout(""), False),
        (socket.gaierror(-2, "Name or service not known"), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("no JSON"), False),
    ],
    ids=[
        *("gated", "revision", "token", "permission", "CDN", "rate limit", "503", "500"),
        *("silence", "offline", "timeout", "name server", "full disk", "no hub"),
    ],
)
def test_what_the_hub_says_of_the_repository_is_lasting(error, lasting):
    """What its server, the network or the disk does may be another at the next start."""
    with pytest.raises(ModelUnavailable) as caught, hub_errors_explained(HubReference("org/m")):
        raise error
    assert caught.value.lasting is lasting


def test_a_repository_that_is_not_there_is_lasting(monkeypatch):
    monkeypatch.setattr("handler.model.hub_errors.similar_names", lambda _: ["org/n"])
    with pytest.raises(ModelUnavailable) as caught, hub_errors_explained(HubReference("org/m")):
        raise refusal(RepositoryNotFoundError)
    assert caught.value.lasting
    assert str(caught.value).endswith(" gives no access; similar names there: org/n.")
