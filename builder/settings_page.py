"""Write the tables of docs/settings.md from the worker's settings.

    python -m builder.settings_page

replaces the text between the page's two markers; the rest of the page is written by hand.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from builder.hub_listing import ENGINE_FLAGS
from handler.settings.environ import setting_variables
from handler.settings.fields import Settings

PAGE = Path("docs/settings.md")
BEGIN = "<!-- Written by `make docs`; edit handler/settings/fields.py instead. -->"
END = "<!-- End of what `make docs` writes. -->"

# Settings by their first variable.
GROUPS = {
    "Model": (
        "MODEL_NAME",
        "MODEL_REVISION",
        "SERVED_MODEL_NAME",
        "QUANTIZATION",
        "HF_TOKEN",
        "TOKENIZER_NAME",
        "TOKENIZER_REVISION",
        "CUSTOM_CHAT_TEMPLATE",
        "LORA_MODULES",
    ),
    "Engine": ("ENGINE", "ENGINE_ARGS", "ENGINE_CONFIG_FILE"),
    "Speculative decoding": (
        "SPECULATIVE_METHOD",
        "SPECULATIVE_MODEL",
        "SPECULATIVE_MODEL_REVISION",
        "NUM_SPECULATIVE_TOKENS",
        "SPECULATIVE_CONFIG",
    ),
    "Requests": (
        "MAX_CONCURRENCY",
        "MAX_POSTS_PER_SECOND",
        "REQUEST_TIMEOUT",
        "DRAIN_TIMEOUT",
        "ALLOWED_MEDIA_DOMAINS",
        "MAX_JSON_VALUES",
        "MAX_REQUEST_ITEMS",
        "MAX_SEQUENCES_PER_REQUEST",
        "MAX_SAMPLING_ITEMS",
        "MAX_TOP_LOGPROBS",
        "MAX_SCHEMA_BYTES",
        "MAX_SCHEMA_ITEMS",
    ),
    "HTTP": (
        "SERVE_MODE",
        "PORT",
        "PORT_HEALTH",
        "HEALTH_CHECK_PATH",
        "HTTP_HOST",
        "API_KEY",
        "ALLOW_UNAUTHENTICATED",
        "MAX_QUEUE",
        "CORS_ORIGINS",
        "PLAYGROUND",
    ),
    "Start and caches": (
        "BASE_PATH",
        "CACHE_ROOT",
        "VOLUME_CACHE",
        "CACHE_MAX_GB",
        "PREFETCH_WEIGHTS",
        "PREFIX_WARMUP",
        "STARTUP_ERROR_SECONDS",
    ),
    "Metrics and logs": (
        "PRICE_PER_SECOND",
        "METRICS_PORT",
        "PROMETHEUS_PUSHGATEWAY",
        "PROMETHEUS_JOB",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "LOG_CONTENT",
    ),
    "Set by the platform": ("RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_ENDPOINT_ID", "RUNPOD_POD_ID"),
}


def update(page: str) -> str:
    """Return the page with tables of the current settings.

    Raises:
        ValueError: a marker is missing, or `GROUPS` does not name each setting once.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} must contain {BEGIN!r} and, below it, {END!r}")
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def tables() -> str:
    """Return a Markdown table for each group, and one of the engine's most used flags.

    Raises:
        ValueError: `GROUPS` does not name each setting once.
    """
    fields = {
        names[0]: (names[1:], Settings.model_fields[f]) for f, names in setting_variables().items()
    }
    grouped = [name for names in GROUPS.values() for name in names]
    if sorted(grouped) != sorted(fields):
        differing = sorted(set(grouped) ^ set(fields)) or "a name twice"
        raise ValueError(f"GROUPS must name each setting once: {differing}")
    sections = [
        _table(
            title,
            "| variable | also accepted | default | meaning |",
            [(name, *_cells(*fields[name])) for name in names],
        )
        for title, names in GROUPS.items()
    ]
    flags = [(name, meaning) for name, (_, meaning) in ENGINE_FLAGS.items()]
    return "\n".join([*sections, _table("Common engine flags", "| variable | meaning |", flags)])


def _table(title: str, header: str, rows: Sequence[tuple[str, ...]]) -> str:
    rule = "| --- " * (header.count("|") - 1) + "|"
    lines = [f"| `{name}` | {' | '.join(cells)} |" for name, *cells in rows]
    return "\n".join([f"### {title}", "", header, rule, *lines, ""])


def _cells(aliases: Sequence[str], info: FieldInfo) -> tuple[str, str, str]:
    """Return other names, default and meaning."""
    meaning = (info.description or "").replace("|", r"\|")
    if choices := list(_choices(info.annotation)):
        meaning += f". One of {', '.join(f'`{choice}`' for choice in choices)}"
    return ", ".join(f"`{alias}`" for alias in aliases), _default(info.default), meaning


def _default(value: Any) -> str:
    """Return a default as a user would write it in the environment."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _choices(annotation: Any) -> Iterator[str]:
    """Return the values of a Literal; none where other values are valid too."""
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))


def main() -> int:
    """Rewrite the page."""
    argparse.ArgumentParser(
        prog="python -m builder.settings_page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    PAGE.write_text(update(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
