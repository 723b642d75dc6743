"""Speculative decoding: SPECULATIVE_METHOD → the flags of each engine.

Drafted tokens are verified by the model in one step: the output does not change, and each accepted
token saves a step. SPECULATIVE_CONFIG is the engine's own JSON and wins over SPECULATIVE_METHOD.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from handler.errors import InvalidSetting
from handler.model.checkpoint import json_object

Method = Literal["none", "ngram", "draft", "eagle", "eagle3", "mtp"]
WITH_MODEL = frozenset({"draft", "eagle", "eagle3"})
# Per step; more tokens pay only where most of them are accepted.
DEFAULT_DRAFT_TOKENS: Mapping[str, int] = {
    "ngram": 4,
    "draft": 4,
    "eagle": 3,
    "eagle3": 3,
    "mtp": 1,
}
PROMPT_LOOKUP_TOKENS = (2, 4)  # minimum and maximum length of a match for ngram
# Both engines' own names are taken as well.
METHODS = {"draft_model": "draft", "standalone": "draft", "nextn": "mtp"}
VLLM_METHODS = {"draft": "draft_model"}
SGLANG_ALGORITHMS = {
    "ngram": "NGRAM",
    "draft": "STANDALONE",
    "eagle": "EAGLE",
    "eagle3": "EAGLE3",
    "mtp": "NEXTN",
}


def method_named(name: str) -> str:
    """Return the method's name here, given that or one of an engine's."""
    return METHODS.get(name.lower(), name.lower())


def check(method: str, model: str | None, tokens: int | None, config: str | None) -> None:
    """Judge the settings together.

    Raises:
        InvalidSetting: one of them has nothing to act on.
    """
    if config:
        _object(config)
        return
    if model and method not in WITH_MODEL:
        raise InvalidSetting(
            f"SPECULATIVE_MODEL={model!r} needs SPECULATIVE_METHOD=draft, eagle or eagle3; "
            f"{method} has no model of its own."
        )
    if tokens and method == "none":
        raise InvalidSetting(
            f"NUM_SPECULATIVE_TOKENS={tokens} needs a SPECULATIVE_METHOD: ngram, draft, eagle, "
            "eagle3 or mtp."
        )


def model_in(config: str | None) -> tuple[str, str | None] | None:
    """Return the draft model that SPECULATIVE_CONFIG names, and its revision."""
    found = _object(config) if config else {}
    for key in ("model", "draft_model_path", "speculative_draft_model_path"):
        name = found.get(key)
        # Without a draft model `model` has been the method's name in some engine versions.
        if isinstance(name, str) and name.strip("[]") not in ("", "ngram", found.get("method")):
            keys = ("revision", "draft_model_revision", "speculative_draft_model_revision")
            revision = next((found[key] for key in keys if found.get(key)), None)
            return name, str(revision) if revision else None
    return None


def check_vocabulary(setting: str, draft: Path, model: Path) -> None:
    """Compare two checkpoints' vocabularies: a drafted token has to be a token of the model's.

    Raises:
        InvalidSetting: with both sizes.
    """
    sizes = [_vocabulary_size(folder) for folder in (draft, model)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise InvalidSetting(
            f"{setting}: the draft model has a vocabulary of {sizes[0]} tokens and the model one "
            f"of {sizes[1]}: take a draft model with as many."
        )


def mixes_vocabularies(config: str | None) -> bool:
    """Whether SPECULATIVE_CONFIG asks vLLM to translate between two vocabularies."""
    return bool(config and _object(config).get("use_heterogeneous_vocab"))


def vllm_config(
    method: str, tokens: int | None, draft: Path | None, config: str | None
) -> str | None:
    """Return vLLM's `--speculative-config`, or None without speculation."""
    if config:
        given = _object(config)
        if draft is not None:
            given["model"] = str(draft)  # a folder, so that the engine does not ask the hub
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
        given = {_sglang_flag(key): _text(value) for key, value in _object(config).items()}
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
            f"SPECULATIVE_CONFIG: {key!r} is vLLM's. SGLang's are algorithm, draft_model_path, "
            "num_steps, eagle_topk, num_draft_tokens …; or set SPECULATIVE_METHOD."
        )
    return name if name.startswith("SPECULATIVE_") else f"SPECULATIVE_{name}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _object(config: str) -> dict[str, Any]:
    try:
        found = json.loads(config)
    except ValueError as error:
        raise InvalidSetting(f"SPECULATIVE_CONFIG={config!r} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InvalidSetting(f"SPECULATIVE_CONFIG={config!r} should be a JSON object.")
    return found


def _vocabulary_size(folder: Path) -> int | None:
    config = json_object(folder / "config.json")
    text = config.get("text_config")
    size = (text if isinstance(text, dict) else config).get("vocab_size")
    return size if isinstance(size, int) else None
