"""Types of settings that pydantic does not have: origins, domains, booleans of an engine."""

import ipaddress
import re
from urllib.parse import urlsplit

SEPARATORS = re.compile(r"[\s,\[\]\"']+")
TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off"})


def parse_origins(text: str) -> list[str]:
    """Return origins of web pages, as a browser sends them; `*` is any, and `null` a file's.

    Raises:
        ValueError: what they should be.
    """
    found = [each.strip().removesuffix("/") for each in text.split(",") if each.strip()]
    for each in found:
        parts = urlsplit(each)
        is_origin = parts.netloc and each == f"{parts.scheme}://{parts.netloc}"
        if each not in ("*", "null") and not is_origin:
            raise ValueError(f"pages as https://name or http://name:port, or *, not {each!r}")
    return found


def parse_domains(text: str) -> frozenset[str]:
    """Return names of hosts, in lower case.

    Raises:
        ValueError: what they should be.
    """
    found = frozenset(name for name in SEPARATORS.split(text.lower()) if name)
    for each in found:
        if ("/" in each or ":" in each) and not _is_ip(each):
            raise ValueError(f"names as a.example, without https:// and a path, not {each!r}")
    return found


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def parse_bool(text: str) -> bool:
    """Return a boolean setting.

    Raises:
        ValueError: it is neither true nor false.
    """
    if text.lower() not in TRUE_WORDS | FALSE_WORDS:
        raise ValueError("must be true or false")
    return text.lower() in TRUE_WORDS
