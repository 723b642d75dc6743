"""What huggingface-hub raises: worth another try, or a sentence with what the user can do."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from handler.errors import BadSetting, ModelUnavailable, one_line

log = logging.getLogger(__name__)
T = TypeVar("T")

# After this many failures in a row without a byte of progress it is given up.
WAITS_SECONDS = (1.0, 2.0, 4.0)
MAX_REASON_CHARACTERS = 200
QUERY = re.compile(r"\?[^\s']*")  # of an address: the hub's large files have signed ones


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
            reason = one_line(QUERY.sub("", str(error)))[:MAX_REASON_CHARACTERS] or repr(error)
            log.warning("%s; trying again in %.0f s", reason, wait_seconds)
            time.sleep(wait_seconds)


@contextmanager
def explained(name: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface-hub raises into one sentence with what the user can do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        FileMetadataError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # httpx's, or httpx2's from huggingface-hub 2.0 on
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise BadSetting(
            f"MODEL_NAME={name!r} is neither a folder here nor a repository's name (org/name)."
        ) from error
    except GatedRepoError as error:
        reason = "it is gated: accept its licence on the hub and set HF_TOKEN"
        raise ModelUnavailable(f"{name}: {reason}.") from error
    except RevisionNotFoundError as error:
        raise ModelUnavailable(f"{name} has no revision {revision!r} (MODEL_REVISION).") from error
    except RepositoryNotFoundError as error:
        reason = "no such repository on the hub, or it is private and HF_TOKEN does not open it"
        raise ModelUnavailable(f"{name}: {reason}.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        meaning = {401: "HF_TOKEN is not valid", 403: "HF_TOKEN may not read it"}
        reason = meaning.get(status, "try again later" if status >= 500 else one_line(str(error)))
        raise ModelUnavailable(f"{name}: the hub answered {status}: {reason}.") from error
    except OfflineModeIsEnabled as error:
        reason = "it is not in the cache, and HF_HUB_OFFLINE keeps the hub from being asked"
        raise ModelUnavailable(f"{name}: {reason}.") from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise ModelUnavailable(f"{name} could not be stored: {error.strerror}.") from error
        reason = f"the hub at {constants.ENDPOINT} cannot be reached"
        if isinstance(error, ValueError) or isinstance(error.__cause__, FileMetadataError):
            reason = f"what answers at {constants.ENDPOINT} is no model hub: check HF_ENDPOINT"
        raise ModelUnavailable(f"{name}: {reason}.") from error


def _may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later: no answer, or one that is the hub's own fault."""
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    if isinstance(error, OfflineModeIsEnabled | FileMetadataError):
        return False
    if isinstance(error.__cause__, Exception):  # "not in the cache", because of this
        return _may_pass(error.__cause__)
    return not (isinstance(error, OSError) and error.errno)  # not a full disk or a missing right
