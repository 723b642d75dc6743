"""Speculative decoding: one setting of ours, in each engine's own words.

A proposer drafts tokens that the model verifies in one step: the text stays the model's, and each
accepted token saves a step. SPECULATIVE_CONFIG is the engine's own JSON and wins over the setting.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.errors import InvalidSetting
from handler.model.draft import parse_speculative_config

# Drafted tokens of one step. More pay only where most of them are accepted.
TOKENS: Mapping[str, int] = {"ngram": 4, "draft": 4, "eagle": 3, "eagle3": 3, "mtp": 1}
LOOKUP_TOKENS = (2, 4)  # the shortest and the longest end of the text that n-gram looks for
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
        own = parse_speculative_config(config)
        if draft is not None:
            own["model"] = str(draft)  # by its folder: the engine asks no hub
            own.pop("revision", None)
        return json.dumps(own)
    if method == "none":
        return None
    made: dict[str, Any] = {
        "method": VLLM_METHODS.get(method, method),
        "num_speculative_tokens": tokens or TOKENS[method],
    }
    if method == "ngram":
        made["prompt_lookup_min"], made["prompt_lookup_max"] = LOOKUP_TOKENS
    if draft is not None:
        made["model"] = str(draft)
    return json.dumps(made)


def sglang_flags(
    method: str, tokens: int | None, draft: Path | None, config: str | None
) -> dict[str, str]:
    """Return the names and values of SGLang's `speculative_*` flags.

    A step drafts a chain, no tree: what a chain does not get accepted a tree seldom does, and a
    tree costs memory for each of its branches.
    """
    if config:
        own = {_flag(key): _text(value) for key, value in parse_speculative_config(config).items()}
        if draft is not None:
            own["SPECULATIVE_DRAFT_MODEL_PATH"] = str(draft)
            own.pop("SPECULATIVE_DRAFT_MODEL_REVISION", None)
        return own
    if method == "none":
        return {}
    count = tokens or TOKENS[method]
    flags = {
        "SPECULATIVE_ALGORITHM": SGLANG_ALGORITHMS[method],
        "SPECULATIVE_NUM_DRAFT_TOKENS": str(count + 1),  # and the last token of the text
    }
    if method != "ngram":
        flags["SPECULATIVE_NUM_STEPS"] = str(count)
        flags["SPECULATIVE_EAGLE_TOPK"] = "1"
    if draft is not None:
        flags["SPECULATIVE_DRAFT_MODEL_PATH"] = str(draft)
    return flags


def _flag(key: str) -> str:
    name = key.upper()
    if name in ("METHOD", "MODEL", "NUM_SPECULATIVE_TOKENS", "PROMPT_LOOKUP_MAX"):
        raise InvalidSetting(
            f"SPECULATIVE_CONFIG: {key!r} is vLLM's. SGLang's are algorithm, draft_model_path, "
            "num_steps, eagle_topk, num_draft_tokens …; or set SPECULATIVE_METHOD."
        )
    return name if name.startswith("SPECULATIVE_") else f"SPECULATIVE_{name}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
