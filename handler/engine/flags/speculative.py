"""Speculative decoding: SPECULATIVE_METHOD → the flags of each engine.

Drafted tokens are verified by the model in one step: the output does not change, and each accepted
token saves a step. SPECULATIVE_CONFIG is the engine's own JSON and wins over SPECULATIVE_METHOD.
"""

import json
from pathlib import Path
from typing import Any

from handler.errors import InvalidSetting
from handler.model.draft import parse_speculative_config
from handler.settings.types import DEFAULT_DRAFT_TOKENS

PROMPT_LOOKUP_TOKENS = (2, 4)  # minimum and maximum length of a match for ngram
VLLM_METHODS = {"draft": "draft_model"}
SGLANG_ALGORITHMS = {
    "ngram": "NGRAM",
    "draft": "STANDALONE",
    "eagle": "EAGLE",
    "eagle3": "EAGLE3",
    "mtp": "NEXTN",
}


def vllm_config(
    method: str, tokens: int | None, draft: Path | None, config: str | None
) -> str | None:
    """Return vLLM's `--speculative-config`, or None without speculation."""
    if config:
        given = parse_speculative_config(config)
        if draft is not None:
            given["model"] = str(draft)  # a folder, so that the engine does not query the hub
            given.pop("revision", None)
        return json.dumps(given)
    if method == "none":
        return None
    made: dict[str, Any] = {
        "method": VLLM_METHODS.get(method, method),
        "num_speculative_tokens": tokens or DEFAULT_DRAFT_TOKENS[method],
    }
    if method == "ngram":
        made["prompt_lookup_min"], made["prompt_lookup_max"] = PROMPT_LOOKUP_TOKENS
    if draft is not None:
        made["model"] = str(draft)
    return json.dumps(made)


def sglang_flags(
    method: str, tokens: int | None, draft: Path | None, config: str | None
) -> dict[str, str]:
    """Return the names and values of SGLang's `speculative_*` flags.

    A step drafts a chain rather than a tree: the branches of a tree cost memory and are seldom
    accepted where a chain is not.
    """
    if config:
        fields = parse_speculative_config(config)
        given = {_sglang_flag(key): _text(value) for key, value in fields.items()}
        if draft is not None:
            given["SPECULATIVE_DRAFT_MODEL_PATH"] = str(draft)
            given.pop("SPECULATIVE_DRAFT_MODEL_REVISION", None)
        return given
    if method == "none":
        return {}
    count = tokens or DEFAULT_DRAFT_TOKENS[method]
    flags = {
        "SPECULATIVE_ALGORITHM": SGLANG_ALGORITHMS[method],
        "SPECULATIVE_NUM_DRAFT_TOKENS": str(count + 1),  # including the last token of the text
    }
    if method != "ngram":
        flags["SPECULATIVE_NUM_STEPS"] = str(count)
        flags["SPECULATIVE_EAGLE_TOPK"] = "1"
    if draft is not None:
        flags["SPECULATIVE_DRAFT_MODEL_PATH"] = str(draft)
    return flags


def _sglang_flag(key: str) -> str:
    name = key.upper()
    if name in ("METHOD", "MODEL", "NUM_SPECULATIVE_TOKENS", "PROMPT_LOOKUP_MAX"):
        raise InvalidSetting(
            f"SPECULATIVE_CONFIG: {key!r} is a field of vLLM. SGLang has algorithm, "
            "draft_model_path, num_steps, eagle_topk, num_draft_tokens …; or set "
            "SPECULATIVE_METHOD."
        )
    return name if name.startswith("SPECULATIVE_") else f"SPECULATIVE_{name}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
