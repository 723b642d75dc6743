"""Two questions to the hub beside a repository's own metadata: similar names, and access.

Each is one request with a short timeout, because a start waits for it. A hub that cannot answer
it, such as a mirror, only costs the hint.
"""

import logging
import re
from difflib import SequenceMatcher

from handler.model.reference import HubReference

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0
MAX_FOUND = 100  # the most downloaded of those that the search finds
MAX_OF_OWNER = 500  # the same for those of an organisation
MAX_SHOWN = 3
MIN_SIMILARITY = 0.6
FIRST_WORDS = re.compile(r"[^-_]+(?:[-_][^-_]+)?")


def similar_names(reference: HubReference) -> list[str]:
    """Return names on the hub that are nearest to one that it does not have, the nearest first.

    The search is for the first two words of the name: the hub finds names that contain what is
    searched for, so a mistake in the rest of the name, or another owner, does not matter. If it
    finds none that is near, the owner's names are asked for: a mistake may then be anywhere in the
    name, with the right owner.
    """
    owner, _, base = reference.name.rpartition("/")
    words = FIRST_WORDS.match(base)
    if words is None:
        return []
    try:
        found = nearest(reference.name, _models(reference, search=words[0], limit=str(MAX_FOUND)))
        if not found and owner:
            of_owner = _models(reference, author=owner, limit=str(MAX_OF_OWNER))
            bases = [name.partition("/")[2] for name in of_owner]
            found = [f"{owner}/{near}" for near in nearest(base, bases)]
        return found
    except Exception:
        log.debug("the hub does not search", exc_info=True)
        return []


def _models(reference: HubReference, **query: str) -> list[str]:
    """Return the names that the hub finds, the most downloaded first."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    response = get_session().get(
        f"{constants.ENDPOINT}/api/models",
        params={**query, "sort": "downloads"},
        headers=build_hf_headers(token=reference.plain_token()),
        timeout=TIMEOUT_SECONDS,
    )
    hf_raise_for_status(response)
    models = response.json()
    if not isinstance(models, list):
        raise ValueError("the answer is not a list")
    return [str(each["id"]) for each in models]


def nearest(name: str, others: list[str]) -> list[str]:
    """Return the names that are spelled most like one, of equals the first."""

    def similarity(other: str) -> float:
        pairs = [(name, other), (name.rpartition("/")[2], other.rpartition("/")[2])]
        ratios = [SequenceMatcher(None, a.lower(), b.lower()).ratio() for a, b in pairs]
        return sum(ratios) / len(ratios)

    rated = {other: similarity(other) for other in dict.fromkeys(others)}
    near = [other for other, rating in rated.items() if rating >= MIN_SIMILARITY]
    return sorted(near, key=rated.__getitem__, reverse=True)[:MAX_SHOWN]


def check_access(reference: HubReference) -> None:
    """Raise huggingface-hub's error if the files of a gated repository will be refused."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    try:
        response = get_session().get(
            f"{constants.ENDPOINT}/api/models/{reference.name}/auth-check",
            headers=build_hf_headers(token=reference.plain_token()),
            timeout=TIMEOUT_SECONDS,
        )
        hf_raise_for_status(response)
    except GatedRepoError:
        raise
    except Exception:
        log.debug("the hub does not say who has access", exc_info=True)
