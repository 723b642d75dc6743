"""The names of variables that mean something to a worker, and which of them nobody may see."""

import json
import re
from functools import cache

from handler.engine import aliases
from handler.engine.aliases import EngineName
from handler.environ import variables

SECRET = re.compile(r"(TOKEN|KEYS?|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?)$")
PASSWORD = re.compile(r"://[^/\s@]*:[^/\s@]+@")  # in an address
# Runpod puts the account's own secret there when a worker starts: the text itself is none.
REFERENCE = re.compile(r"\{\{\s*RUNPOD_SECRET_\w+\s*\}\}")


def is_secret(name: str, value: str) -> bool:
    """Whether nobody may see a variable's value."""
    secret = name in _secrets() or (
        name not in known_names() and SECRET.search(name.upper()) is not None
    )
    secret = secret or PASSWORD.search(value) is not None
    return secret and not is_reference(value)


def is_reference(value: str) -> bool:
    """Whether the platform puts a secret of the account in a value's place."""
    return REFERENCE.fullmatch(value) is not None


def known_names() -> frozenset[str]:
    """Return every setting of the worker and flag of either engine: none of a user's own."""
    return known("vllm") | known("sglang")


@cache
def known(engine: EngineName) -> frozenset[str]:
    """Return the names that a worker with an engine takes."""
    flags = json.loads(aliases.FLAG_NAMES.read_text(encoding="utf-8"))[engine]
    mine = frozenset(name for names in variables().values() for name in names)
    return mine | aliases.ALIAS_NAMES | frozenset(flags["off"] + flags["other"])


@cache
def _secrets() -> frozenset[str]:
    names = variables()
    return frozenset(names["hf_token"] + names["api_key"])
