"""What an answer of Runpod's API means, as one sentence with what the user can do."""

import re
from typing import Any

import httpx

from builder.errors import (
    ApiKeyRefused,
    ApiUnavailable,
    DeployError,
    NoCredit,
    NotFound,
    RequestRefused,
)
from handler.errors import one_line

CREDIT = re.compile(r"\b(balance|credits?|insufficient funds)\b", re.IGNORECASE)
MAX_REASON_CHARACTERS = 300
KEYS_PAGE = "in Runpod's console, under Settings and API Keys"
ERRORS: dict[int, tuple[type[DeployError], str]] = {
    401: (
        ApiKeyRefused,
        f"RUNPOD_API_KEY is not valid ({{reason}}): make a key {KEYS_PAGE}, and export it.",
    ),
    402: (
        NoCredit,
        "The account has no credit ({reason}): add some in Runpod's console, under Billing.",
    ),
    403: (
        ApiKeyRefused,
        "RUNPOD_API_KEY may not reach {what} ({reason}): give the key read and write access "
        f"{KEYS_PAGE}.",
    ),
    404: (NotFound, "Runpod does not know {what}, or RUNPOD_API_KEY does not reach it ({reason})."),
}


class TemporaryFailure(ApiUnavailable):
    """A request that may succeed when it is sent again.

    Args:
        cause: what happened.
        advice: what the user can do in the end.
        may_be_done: whether the request may have been carried out.
        retry_after: seconds that the API asks to wait.
    """

    def __init__(
        self, cause: str, advice: str, *, may_be_done: bool, retry_after: float = 0.0
    ) -> None:
        super().__init__(f"{cause}: {advice}.")
        self.cause, self.may_be_done, self.retry_after = cause, may_be_done, retry_after


def unreachable(error: httpx.RequestError) -> TemporaryFailure:
    """Return the error for a request without an answer."""
    host = error.request.url.netloc.decode()
    slow = isinstance(error, httpx.ReadTimeout)
    cause = f"{host} {'does not answer in time' if slow else 'cannot be reached'}"
    return TemporaryFailure(cause, "check the network, and RUNPOD_API_URL", may_be_done=True)


def error_of(answer: httpx.Response, what: str) -> DeployError:
    """Return the error for a status of 300 or more.

    Args:
        answer: the response, read.
        what: what was asked for, such as `endpoint ep-1`.
    """
    status, reason = answer.status_code, reason_of(answer)
    if 400 <= status < 500 and status not in (401, 404) and CREDIT.search(reason):
        status = 402
    if status in ERRORS:
        kind, text = ERRORS[status]
        return kind(text.format(what=what, reason=reason))
    if status == 429:
        wait = answer.headers.get("retry-after", "")
        return TemporaryFailure(
            f"Runpod answers 429 for {what} ({reason})",
            f"try again later, in {wait} s" if wait else "try again later",
            may_be_done=False,
            retry_after=float(wait) if wait.isdecimal() else 0.0,
        )
    if status >= 500 or status == 408:
        cause = f"Runpod fails with {status} for {what} ({reason})"
        return TemporaryFailure(cause, "try again later", may_be_done=True)
    return RequestRefused(f"Runpod refuses {what} with {status}: {reason}.")


def reason_of(answer: httpx.Response) -> str:
    """Return an answer's own text: RFC 9457, OpenAI's error object, or the older API's."""
    body = json_of(answer)
    body = body if isinstance(body, dict) else {}
    error = body.get("error")
    text = error.get("message") if isinstance(error, dict) else error
    text = str(body.get("detail") or body.get("message") or text or body.get("title") or "")
    if isinstance(body.get("errors"), list):
        text = f"{text.rstrip('.')}: {'; '.join(map(str, body['errors']))}"
    return one_line(text)[:MAX_REASON_CHARACTERS].rstrip(".") or answer.reason_phrase or "no reason"


def json_of(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
