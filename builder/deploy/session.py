"""The connection to Runpod: the key from the environment, and what is there by its name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from pydantic import SecretStr

from builder.deploy.api import URL, Api, Noun, Thing
from builder.deploy.caller import ADDRESS, Caller, Pace
from builder.deploy.choice import made_of
from builder.deploy.screen import Screen
from builder.errors import ApiKeyRefused, InvalidArgument, NotFound
from handler.setting_types import check_token

KEY = "RUNPOD_API_KEY"
THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


@contextmanager
def connected(environ: Mapping[str, str], pace: Pace, screen: Screen) -> Iterator[Api]:
    """Give the API as the user of RUNPOD_API_KEY.

    Raises:
        ApiKeyRefused: there is no key, or it is none.
        InvalidArgument: RUNPOD_API_URL is no address that a key may go to.
    """
    text = environ.get(KEY, "").strip()
    if not text:
        raise ApiKeyRefused(
            f"{KEY} is not set: make a key in Runpod's console, under Settings and API Keys, and "
            "export it."
        )
    try:
        key = check_token(SecretStr(text))
    except ValueError as error:
        raise ApiKeyRefused(f"{KEY} should be {error}.") from error
    screen.keep([text])
    caller = Caller(key, pace, screen)
    with caller.client:
        yield Api(caller, _address(environ))


def one(api: Api, noun: Noun, name: str) -> Thing | None:
    """Return the endpoint or the template of a name, with all that it has; None if there is none.

    Raises:
        InvalidArgument: there are several.
    """
    things = api.named(noun, name)
    if len(things) > 1:
        ids = ", ".join(str(each["id"]) for each in things)
        raise InvalidArgument(
            f"There are {len(things)} {noun}s named {name} ({ids}): delete or rename all but one "
            "in Runpod's console."
        )
    return api.read(noun, str(things[0]["id"])) if things else None


def endpoint_named(api: Api, name: str) -> Thing:
    """Return the endpoint of a name.

    Raises:
        NotFound: there is none.
        InvalidArgument: there are several.
    """
    endpoint = one(api, "endpoint", name)
    if endpoint is None:
        advice = made_of(name) or "python -m builder deploy makes one"
        raise NotFound(f"There is no endpoint named {name}: {advice}.")
    return endpoint


def _address(environ: Mapping[str, str]) -> str:
    address = environ.get(ADDRESS, "").strip() or URL
    with suppress(ValueError):  # which an address that is none raises
        parts = urlsplit(address)
        host = (parts.hostname or "").encode("idna").decode()
        if host and (parts.scheme == "https" or (parts.scheme == "http" and host in THIS_MACHINE)):
            return address
    raise InvalidArgument(f"{ADDRESS}={address!r} should be https://…: the key goes there.")
