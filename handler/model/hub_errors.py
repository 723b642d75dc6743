"""What huggingface-hub raises: worth another try, or a sentence with what the user can do."""

import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

from handler.errors import InvalidSetting, ModelUnavailable, one_line
from handler.model.reference import HubReference

log = logging.getLogger(__name__)
T = TypeVar("T")

# After this many failures in a row without a byte of progress it is given up.
WAITS_SECONDS = (1.0, 2.0, 4.0)
MAX_REASON_CHARACTERS = 200
# A library's message may repeat a signed address, or the header that it could not send.
SECRETS = re.compile(r"\?[^\s']*|(?<=Bearer ).*", re.DOTALL)


def patiently(call: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
    """Call until it succeeds, or fails for good, or fails too often without progress."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    failures = 0
    while True:
        before = progress()
        try:
            return call()
        except (HTTPError, OSError, RuntimeError) as error:
            failures = 1 if progress() > before else failures + 1
            if not _may_pass(error) or failures > len(WAITS_SECONDS):
                raise
            wait_seconds = WAITS_SECONDS[failures - 1]
            log.warning("%s; trying again in %.0f s", reason_of(error), wait_seconds)
            time.sleep(wait_seconds)


@contextmanager
def explained(reference: HubReference) -> Iterator[None]:
    """Turn what huggingface-hub raises into one sentence with what the user can do.

    Raises:
        ModelUnavailable, InvalidSetting: that sentence.
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

    name = reference.name
    try:
        yield
    except HFValidationError as error:
        raise InvalidSetting(
            f"{reference.setting}={name!r} is no repository's name (org/name)."
        ) from error
    except GatedRepoError as error:
        reason = "it is gated: accept its licence on the hub and set HF_TOKEN"
        raise ModelUnavailable(f"{name}: {reason}.") from error
    except RevisionNotFoundError as error:
        raise ModelUnavailable(
            f"{name} has no revision {reference.revision!r} ({reference.revision_setting})."
        ) from error
    except RepositoryNotFoundError as error:
        reason = "no such repository on the hub, or it is private and HF_TOKEN does not open it"
        raise ModelUnavailable(f"{name}: {reason}.") from error
    except HfHubHTTPError as error:
        raise ModelUnavailable(f"{name}: the hub answered {_meaning(error)}.") from error
    except OfflineModeIsEnabled as error:
        reason = "it is not in the cache, and HF_HUB_OFFLINE keeps the hub from being asked"
        raise ModelUnavailable(f"{name}: {reason}.") from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise ModelUnavailable(f"{name}{_trouble(error)}.") from error


def reason_of(error: BaseException) -> str:
    """Return a library's message in one line, without what may be secret in it."""
    text = one_line(SECRETS.sub("…", str(error)))
    return text[:MAX_REASON_CHARACTERS] or type(error).__name__


def _meaning(error: Exception) -> str:
    """Say what a status means, on the hub itself or where it keeps large files."""
    status, host = error.response.status_code, error.response.url.host  # type: ignore[attr-defined]
    meaning = {401: "HF_TOKEN is not valid", 403: "HF_TOKEN may not read it"}
    if status in meaning and host == urlsplit(_endpoint()).hostname:
        return f"{status}: {meaning[status]}"
    return f"{status}: {'try again later' if status >= 500 else reason_of(error)}"


def _trouble(error: Exception) -> str:
    from huggingface_hub.errors import FileMetadataError

    if isinstance(error, OSError) and _is_of_the_disk(error):
        return f" could not be stored: {error.strerror}"
    if isinstance(error, ValueError) or isinstance(error.__cause__, FileMetadataError):
        return f": what answers at {_endpoint()} is no model hub: check HF_ENDPOINT"
    return f": the hub at {_endpoint()} cannot be reached"


def _endpoint() -> str:
    """The hub's address, without the password that it may have."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later: no answer, or one that is the hub's own fault."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        FileMetadataError,
        HfHubHTTPError,
        HTTPError,
        OfflineModeIsEnabled,
    )

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    if isinstance(error, OfflineModeIsEnabled | FileMetadataError):
        return False
    if not isinstance(error, HTTPError) and isinstance(error.__cause__, Exception):
        return _may_pass(error.__cause__)  # "not in the cache", because of this
    return not _is_of_the_disk(error)


def _is_of_the_disk(error: Exception) -> bool:
    """Whether it is a full disk or a missing right, and not a broken connection."""
    of_the_network = isinstance(error, ConnectionError | TimeoutError | socket.gaierror)
    return isinstance(error, OSError) and bool(error.errno) and not of_the_network
