"""What an answer's status means, as one sentence with what the user can do."""

import re
from collections.abc import Mapping
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

MAX_REASON_CHARACTERS = 300
# 402 is the status that says so; in case the API says it with another one, its words do.
ON_CREDIT = re.compile(r"\b(balance|credits?|insufficient funds)\b", re.IGNORECASE)


def failure(answer: httpx.Response, what: str) -> DeployError:
    """Return the error that an answer of 300 or more is.

    Args:
        answer: the response, read.
        what: the thing that was asked for, such as `endpoint ep-1`.
    """
    status, reason = answer.status_code, reason_of(answer)
    if status == 401:
        return ApiKeyRefused(
            f"RUNPOD_API_KEY is not valid ({reason}): make a key in Runpod's console, under "
            "Settings and API Keys, and export it."
        )
    if status == 402 or (400 <= status < 500 and status != 404 and ON_CREDIT.search(reason)):
        return NoCredit(
            f"The account has no credit ({reason}): add some in Runpod's console, under Billing."
        )
    if status == 403:
        return ApiKeyRefused(
            f"RUNPOD_API_KEY may not reach {what} ({reason}): give the key read and write access "
            "in Runpod's console, under Settings and API Keys."
        )
    if status == 404:
        return NotFound(
            f"Runpod does not know {what}, or RUNPOD_API_KEY does not reach it ({reason})."
        )
    if status == 429:
        return ApiUnavailable(f"Runpod answers 429 for {what} ({reason}): try again later.")
    if status >= 500:
        return ApiUnavailable(f"Runpod fails with {status} for {what} ({reason}): try again later.")
    return RequestRefused(f"Runpod refuses {what} with {status}: {reason}.")


def reason_of(answer: httpx.Response) -> str:
    """Return what the answer says of itself: RFC 9457, OpenAI's or the older API's form."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    text = _told(body) if isinstance(body, dict) else ""
    return one_line(text)[:MAX_REASON_CHARACTERS].rstrip(".") or answer.reason_phrase or "no reason"


def _told(body: Mapping[str, Any]) -> str:
    error = body.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or "")
    told = str(body.get("detail") or body.get("message") or error or body.get("title") or "")
    errors = body.get("errors")
    if isinstance(errors, list) and errors:
        told = f"{told.rstrip('.')}: {'; '.join(str(each) for each in errors)}"
    return told
