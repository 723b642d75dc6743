"""Errors of huggingface-hub: retried, or turned into one sentence that says what to do."""

import logging
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit

from handler.errors import InvalidSetting, ModelUnavailable, one_line
from handler.model.hub_names import similar_names
from handler.model.reference import HubReference

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_WAITS_SECONDS = (1.0, 2.0, 4.0)  # between failures in a row, none of which made progress
# Sum of the waits that the hub may request; its rate limits are counted over 300 s.
MAX_RATE_LIMIT_WAIT_SECONDS = 330.0
TRANSIENT_STATUSES = (408, 429)  # and 5xx
MAX_REASON_CHARACTERS = 200
MAX_DIGITS = 9  # of a time in seconds
NAME_AND_REVISION = re.compile(r"[\w.-]+/[\w.-]+[:@#]([\w./-]+)")
READ_TIMEOUT = "ReadTimeout"  # of httpx, or of httpx2 from huggingface-hub 2.0 on
TIMEOUTS = ("ConnectTimeout", READ_TIMEOUT)
# Query strings may be signatures; an "illegal header value" error repeats the token.
SECRETS = re.compile(r"\?[^\s']*|(?<=Bearer ).*", re.DOTALL)


class TransferStalled(OSError):
    """A transfer has received no data for too long."""


def retry(
    call: Callable[[], T],
    progress: Callable[[], int] = lambda: 0,
    waits_seconds: Sequence[float] = RETRY_WAITS_SECONDS,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Return what `call` returns, retried after errors that may pass.

    Args:
        call: a request to the hub.
        progress: a count, such as of bytes; when it has grown, the retries start over.
        waits_seconds: the waits between failures without progress; then the error is raised, as
            after a second silence in a row.
            Waits that the hub requests are counted separately.
        sleep: waits that many seconds.
    """
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    failures, asked_seconds, has_stalled = 0, 0.0, False
    while True:
        before = progress()
        try:
            return call()
        except (HTTPError, OSError, RuntimeError) as error:
            if not _is_transient(error):
                raise
            asked = _requested_wait_seconds(error)
            if asked is not None:
                asked_seconds += asked
                if asked_seconds > MAX_RATE_LIMIT_WAIT_SECONDS:
                    raise
                wait_seconds = asked
            else:
                failures = 1 if progress() > before else failures + 1
                if failures > len(waits_seconds) or (has_stalled and failures > 1):
                    raise
                has_stalled = _is_silence(error)
                wait_seconds = waits_seconds[failures - 1]
            log.warning("%s, trying again in %.0f s", _retry_reason(error), wait_seconds)
            sleep(wait_seconds)


@contextmanager
def hub_errors_explained(reference: HubReference) -> Iterator[None]:
    """Turn huggingface-hub's errors into ModelUnavailable or InvalidSetting.

    Lasting is what the hub says of the repository, its revision and the token; what else its
    server, the network or a disk does may pass, or be another on the next host.
    """
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # httpx's, or httpx2's from huggingface-hub 2.0 on
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, advice = reference.name, reference.token_advice
    try:
        yield
    except HFValidationError as error:
        raise InvalidSetting(
            f"{reference.setting}={name!r} must be the name of a repository (org/name), "
            f"and there is no such local folder{_name_advice(reference)}."
        ) from error
    except GatedRepoError as error:
        reason = f"it is gated: accept its licence on the hub and set HF_TOKEN{advice}"
        raise ModelUnavailable(f"{name}: {reason}.") from error
    except RevisionNotFoundError as error:
        raise ModelUnavailable(
            f"{name} has no revision {reference.revision!r} ({reference.revision_setting})."
        ) from error
    except RepositoryNotFoundError as error:
        reason = "no such repository on the hub, or it is private and HF_TOKEN gives no access"
        names = similar_names(reference)
        similar = f"; similar names there: {', '.join(names)}" if names else ""
        raise ModelUnavailable(f"{name}: {reason}{advice}{similar}.") from error
    except HfHubHTTPError as error:
        raise _status_error(name, error, advice) from error
    except TransferStalled as error:
        reason = f"the hub at {_endpoint()} accepts the download and sends {error}"
        raise ModelUnavailable(f"{name}: {reason}.", lasting=False) from error
    except OfflineModeIsEnabled as error:  # another host may have it
        reason = "it is not in the cache, and HF_HUB_OFFLINE is set"
        raise ModelUnavailable(f"{name}: {reason}.", lasting=False) from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error.__cause__, HfHubHTTPError):  # "not in the cache", because of this
            raise _status_error(name, error.__cause__, advice) from error
        raise ModelUnavailable(f"{name}{_failure_reason(error)}.", lasting=False) from error


def check_endpoint() -> None:
    """Raise InvalidSetting unless HF_ENDPOINT is a URL: huggingface-hub takes any text."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSetting(f"HF_ENDPOINT={_endpoint()!r} must be an http or https URL.")


def reason_of(error: BaseException) -> str:
    """Return a library's message in one line, without signatures and tokens."""
    text = one_line(SECRETS.sub("…", str(error)))
    return text[:MAX_REASON_CHARACTERS] or type(error).__name__


def _name_advice(reference: HubReference) -> str:
    if found := NAME_AND_REVISION.fullmatch(reference.name):
        return f"; a revision such as {found[1]!r} goes into {reference.revision_setting}"
    return ""


def _retry_reason(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    if _requested_wait_seconds(error) is not None:
        return "the hub answered 429, too many requests"
    if isinstance(error, HfHubHTTPError):
        return reason_of(error)
    if isinstance(error, TransferStalled):
        return f"the hub sends {error}"
    return f"the hub cannot be reached ({reason_of(error)})"


def _requested_wait_seconds(error: BaseException | None) -> float | None:
    """Return how long the hub asks to wait, in the headers of its answer."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    if not isinstance(error, HfHubHTTPError):
        return _requested_wait_seconds(error.__cause__) if error else None
    if error.response.status_code not in (429, 503):
        return None
    headers = error.response.headers
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0  # it counts whole seconds
    after = headers.get("Retry-After", "").strip()
    try:
        if after.isdecimal():
            seconds = int(after[:MAX_DIGITS]) + 1.0
        else:
            seconds = parsedate_to_datetime(after).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 1.0 else None  # "0" and a time in the past are no wait


def _status_error(name: str, error: BaseException, token_advice: str) -> ModelUnavailable:
    """Explain a status; 401 and 403 of the CDN for large files do not concern the token."""
    status, host = error.response.status_code, error.response.url.host  # type: ignore[attr-defined]
    if status == 429:
        asked = _requested_wait_seconds(error)
        wait = f" and asks to wait {asked:.0f} s" if asked is not None else ""
        return ModelUnavailable(
            f"{name}: the hub answered 429, too many requests{wait}: try again later, or with "
            "HF_TOKEN, which has a higher limit.",
            lasting=False,
        )
    reasons = {401: "HF_TOKEN is not valid", 403: "HF_TOKEN has no permission to read it"}
    if status in reasons and host == urlsplit(_endpoint()).hostname:
        return ModelUnavailable(
            f"{name}: the hub answered {status}: {reasons[status]}{token_advice}."
        )
    reason = "try again later" if status >= 500 else reason_of(error)
    return ModelUnavailable(f"{name}: the hub answered {status}: {reason}.", lasting=False)


def _failure_reason(error: Exception) -> str:
    from huggingface_hub.errors import FileMetadataError

    if isinstance(error, OSError) and _is_disk_error(error):
        path = f" ({error.filename})" if error.filename else ""
        return f" could not be stored: {error.strerror}{path}"
    if isinstance(error, ValueError) or isinstance(error.__cause__, FileMetadataError):
        return f": {_endpoint()} is not a model hub: check HF_ENDPOINT"
    if READ_TIMEOUT in (type(error).__name__, type(error.__cause__).__name__):
        return f": the hub at {_endpoint()} accepted the connection and sent no data"
    return f": the hub at {_endpoint()} cannot be reached, and there is no such local folder"


def _endpoint() -> str:
    """Return the hub's URL without the password that it may have."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _is_silence(error: BaseException | None) -> bool:
    """Whether no data came for as long as it was waited for."""
    if isinstance(error, TransferStalled) or type(error).__name__ in TIMEOUTS:
        return True
    return error is not None and _is_silence(error.__cause__)


def _is_transient(error: Exception) -> bool:
    """Whether a retry may succeed: no response, or an error of the hub's server."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        FileMetadataError,
        HfHubHTTPError,
        HTTPError,
        OfflineModeIsEnabled,
    )

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status >= 500 or status in TRANSIENT_STATUSES
    if isinstance(error, OfflineModeIsEnabled | FileMetadataError):
        return False
    if not isinstance(error, HTTPError) and isinstance(error.__cause__, Exception):
        return _is_transient(error.__cause__)  # "not in the cache", because of this
    return not _is_disk_error(error)


def _is_disk_error(error: Exception) -> bool:
    """Whether it is a full disk or a missing permission, not a broken connection."""
    is_network_error = isinstance(error, ConnectionError | TimeoutError | socket.gaierror)
    return isinstance(error, OSError) and bool(error.errno) and not is_network_error
