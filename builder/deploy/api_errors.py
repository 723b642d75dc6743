"""Errors for answers of Runpod's API: one sentence each, with what the user can do."""

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

KEYS_PAGE = "in Runpod's console, under Settings and API Keys"
# Texts about an account without credit: "balance is too low", "not enough credits". One word
# alone is not enough: a validation error may name load balancing, or credits of something else.
CREDIT = re.compile(
    r"\b(insufficient|not enough|too few|low|no|out of|negative)(\s+account)?\s+"
    r"(balance|credits?|funds)\b"
    r"|(?<!load[ -])\b(balance|credits?|funds)\b(\s+(is|are|has|have|been))*\s+"
    r"(too\s+low|insufficient|exhausted|used up|negative|below|not sufficient|not enough)\b",
    re.IGNORECASE,
)
MAX_REASON_CHARACTERS = 300
Json = dict[str, Any]


class TemporaryFailure(ApiUnavailable):
    """A request that may succeed when it is sent again, after `retry_after` seconds."""

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


def unreachable(error: httpx.RequestError) -> TemporaryFailure:
    """Return the error for a request without an answer."""
    host = error.request.url.netloc.decode()
    is_slow = isinstance(error, httpx.ReadTimeout)
    cause = "does not answer in time" if is_slow else "cannot be reached"
    return TemporaryFailure(f"{host} {cause}: check the network, and RUNPOD_API_URL.")


def error_of(answer: httpx.Response, what: str) -> DeployError:
    """Return the error for an answer with a status of 300 or more."""
    status, reason = answer.status_code, reason_of(answer)
    if status == 401:
        return ApiKeyRefused(
            f"RUNPOD_API_KEY is not valid ({reason}): create a key {KEYS_PAGE}, and export it."
        )
    if status == 404:
        return NotFound(
            f"Runpod cannot find {what}, or RUNPOD_API_KEY has no access to it ({reason})."
        )
    if status == 402 or (status in (400, 403) and CREDIT.search(reason)):
        return NoCredit(
            f"The account has no credit ({reason}): add some in Runpod's console, under Billing."
        )
    if status == 403:
        return ApiKeyRefused(
            f"RUNPOD_API_KEY has no access to {what} ({reason}): give the key read and write "
            f"access {KEYS_PAGE}."
        )
    if status == 429:
        wait = answer.headers.get("retry-after", "")
        limit = f", and asks to wait {wait} s" if wait else ""
        return TemporaryFailure(
            f"Runpod answers 429 for {what} ({reason}){limit}.",
            retry_after=float(wait) if wait.isdecimal() else 0.0,
        )
    if status >= 500 or status == 408:
        return TemporaryFailure(f"Runpod fails with {status} for {what} ({reason}).")
    return RequestRefused(f"Runpod refuses {what} with {status}: {reason}.")


def reason_of(answer: httpx.Response) -> str:
    """Return an answer's error text: from RFC 9457, OpenAI's error object, or the older API's."""
    body = json_of(answer) or {}
    error = body.get("error")
    text = error.get("message") if isinstance(error, dict) else error
    text = str(body.get("detail") or body.get("message") or text or body.get("title") or "")
    if isinstance(body.get("errors"), list):
        text = f"{text.rstrip('.')}: {'; '.join(map(str, body['errors']))}"
    return one_line(text)[:MAX_REASON_CHARACTERS].rstrip(".") or answer.reason_phrase or "no reason"


def json_of(answer: httpx.Response) -> Json | None:
    """Return an answer's JSON object without the fields that are null; None if it is not one."""

    def without_nulls(fields: Json) -> Json:
        return {name: value for name, value in fields.items() if value is not None}

    try:
        value = answer.json(object_hook=without_nulls)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def invalid_answer(what: str) -> ApiUnavailable:
    return ApiUnavailable(f"The answer for {what} is not Runpod's: check RUNPOD_API_URL.")
