"""Types of settings that are more than a number or a text, and their parsers."""

import ipaddress
import json
import re
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from handler.settings.variables import clean_value

SpeculativeMethod = Literal["none", "ngram", "draft", "eagle", "eagle3", "mtp"]
# Per step; more tokens pay only where most of them are accepted.
DEFAULT_DRAFT_TOKENS = {"ngram": 4, "draft": 4, "eagle": 3, "eagle3": 3, "mtp": 1}
ENGINE_METHODS = {"draft_model": "draft", "standalone": "draft", "nextn": "mtp"}
MTP_OF_A_MODEL = "_mtp"  # vLLM's older names: deepseek_mtp, qwen3_next_mtp …
SEPARATORS = re.compile(r"[\s,\[\]\"']+")
LogLevelName = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
LOG_LEVEL_NAMES: tuple[str, ...] = get_args(LogLevelName)
LOG_LEVELS = {  # other words and numbers for a level
    "WARN": "WARNING",
    "FATAL": "CRITICAL",
    "TRACE": "DEBUG",
    "VERBOSE": "DEBUG",
    "NOTSET": "DEBUG",
    "10": "DEBUG",
    "20": "INFO",
    "30": "WARNING",
    "40": "ERROR",
    "50": "CRITICAL",
}
TRUE_WORDS = frozenset({"1", "true", "t", "yes", "y", "on", "enabled"})
FALSE_WORDS = frozenset({"0", "false", "f", "no", "n", "off", "disabled"})


def parse_speculative_method(name: str) -> str:
    """Return the method for one of its names here or in an engine."""
    name = name.lower()
    return "mtp" if name.endswith(MTP_OF_A_MODEL) else ENGINE_METHODS.get(name, name)


def check_token(secret: SecretStr) -> SecretStr:
    """Return the secret unless it cannot be sent as a token, such as two lines of a file.

    Raises:
        ValueError: what it must be.
    """
    if not re.fullmatch(r"[\x21-\x7e]+", secret.get_secret_value()):
        raise ValueError("one word without spaces or line breaks")
    return secret


def parse_origins(text: str) -> list[str]:
    """Return the origins of web pages, as browsers send them; `*` is any, `null` a local file.

    Raises:
        ValueError: what they must be.
    """
    origins = [each.strip().removesuffix("/") for each in text.split(",") if each.strip()]
    for origin in origins:
        parts = urlsplit(origin)
        is_origin = parts.netloc and origin == f"{parts.scheme}://{parts.netloc}"
        if origin not in ("*", "null") and not is_origin:
            raise ValueError(
                f"origins such as https://name or http://name:port, or *, not {origin!r}"
            )
    return origins


def check_health_path(path: str) -> str:
    """Return the path of a health check.

    Raises:
        ValueError: what it must be.
    """
    if not re.fullmatch(r"(/[\w.~-]+)+", path, re.ASCII):
        raise ValueError("a path that begins with /, such as /ping or /healthz")
    return path


def parse_domains(text: str) -> frozenset[str]:
    """Return host names in lower case.

    Raises:
        ValueError: what they must be.
    """
    domains = frozenset(name for name in SEPARATORS.split(text.lower()) if name)
    for domain in domains:
        if ("/" in domain or ":" in domain) and not _is_ip(domain):
            raise ValueError(
                f"domains such as a.example, without https:// and path, not {domain!r}"
            )
    return domains


def parse_model_names(text: str) -> tuple[str, ...]:
    """Return names of a model: a JSON list, or words between commas or blanks.

    Raises:
        ValueError: what they must be.
    """
    try:
        items = json.loads(text) if text.startswith("[") else re.split(r"[\s,]+", text)
    except ValueError:
        items = []
    names = [clean_value(item) if isinstance(item, str) else str([item]) for item in items]
    if not all(re.fullmatch(r"[^\s,\"'\[\]{}]+", name) for name in names if name):
        raise ValueError("words without quotes or brackets")
    found = tuple(dict.fromkeys(name for name in names if name))
    if text and not found:
        raise ValueError("a name, or several (first,second or a JSON list)")
    return found


def parse_log_level(text: str) -> str:
    """Return the level for one of its names or numbers."""
    return LOG_LEVELS.get(text.upper(), text.upper())


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def parse_bool(text: str) -> bool:
    """Return a boolean setting.

    Raises:
        ValueError: what it must be.
    """
    if text.lower() not in TRUE_WORDS | FALSE_WORDS:
        raise ValueError("must be true or false")
    return text.lower() in TRUE_WORDS


def _without_service_link(value: object) -> object:
    """Ignore `PORT=tcp://10.0.0.1:80`, which Docker and Kubernetes set for a linked service."""
    return None if isinstance(value, str) and value.startswith("tcp://") else value


def _check_origins(text: str) -> str:
    parse_origins(text)
    return text


def _check_model_names(text: str) -> str:
    parse_model_names(text)
    return text


def _check_domains(text: str) -> str:
    parse_domains(text)
    return text


def _bool(value: object) -> object:
    return parse_bool(value) if isinstance(value, str) else value


def _lower_case(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Bool = Annotated[bool, BeforeValidator(_bool)]
AnyCase = BeforeValidator(_lower_case)  # of the words to choose from
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
HubToken = Annotated[SecretStr, AfterValidator(check_token)]
Port = Annotated[int, Field(ge=1, le=65535)]
OwnPort = Annotated[Port | None, BeforeValidator(_without_service_link)]
LowerCase = Annotated[str, AfterValidator(str.lower)]
Method = Annotated[SpeculativeMethod, BeforeValidator(parse_speculative_method)]
LogLevel = Annotated[LogLevelName, BeforeValidator(parse_log_level)]
ModelNames = Annotated[str, AfterValidator(_check_model_names)]
Origins = Annotated[str, AfterValidator(_check_origins)]
HealthPath = Annotated[str, AfterValidator(check_health_path)]
Domains = Annotated[str, AfterValidator(_check_domains)]
