"""The draft model of speculative decoding: which one the settings name, and whether it fits.

SPECULATIVE_CONFIG is the engine's own JSON and wins over the other settings.
"""

import json
from pathlib import Path
from typing import Any

from handler.errors import InvalidSetting
from handler.model.checkpoint import model_config
from handler.model.reference import HubReference

DRAFT_MODEL_METHODS = frozenset({"draft", "eagle", "eagle3"})


def check_speculative_settings(
    method: str, model: str | None, tokens: int | None, config: str | None
) -> None:
    """Check SPECULATIVE_METHOD, _MODEL, NUM_SPECULATIVE_TOKENS and SPECULATIVE_CONFIG together.

    Raises:
        InvalidSetting: a setting has no effect with the others, or the JSON is invalid.
    """
    if config:
        parse_speculative_config(config)
        return
    if model and method not in DRAFT_MODEL_METHODS:
        raise InvalidSetting(
            f"SPECULATIVE_MODEL={model!r} needs SPECULATIVE_METHOD=draft, eagle or eagle3; "
            f"{method} uses no draft model."
        )
    if tokens and method == "none":
        raise InvalidSetting(
            f"NUM_SPECULATIVE_TOKENS={tokens} needs a SPECULATIVE_METHOD: ngram, draft, eagle, "
            "eagle3 or mtp."
        )


def draft_in_config(config: str) -> HubReference | None:
    """Return the draft model in SPECULATIVE_CONFIG, None without one."""
    fields = parse_speculative_config(config)
    for key in ("model", "draft_model_path", "speculative_draft_model_path"):
        name = fields.get(key)
        # Some engine versions put the method's name into `model` when there is no draft model.
        if isinstance(name, str) and name.strip("[]") not in ("", "ngram", fields.get("method")):
            keys = ("revision", "draft_model_revision", "speculative_draft_model_revision")
            revision = next((fields[key] for key in keys if fields.get(key)), None)
            return HubReference(name, str(revision) if revision else None, "SPECULATIVE_CONFIG")
    return None


def check_vocabulary(name: str, draft: Path, model: Path) -> None:
    """Compare the vocabularies of two checkpoints: a drafted token must be one of the model's.

    Raises:
        InvalidSetting: their sizes differ.
    """
    draft_size, model_size = _vocabulary_size(draft), _vocabulary_size(model)
    if draft_size and model_size and draft_size != model_size:
        raise InvalidSetting(
            f"{name}: the draft model has a vocabulary of {draft_size} tokens, the model one of "
            f"{model_size}: choose a draft model with the same vocabulary."
        )


def translates_vocabularies(config: str | None) -> bool:
    """Whether SPECULATIVE_CONFIG makes vLLM translate between two vocabularies."""
    return bool(config and parse_speculative_config(config).get("use_heterogeneous_vocab"))


def parse_speculative_config(config: str) -> dict[str, Any]:
    """Parse SPECULATIVE_CONFIG.

    Raises:
        InvalidSetting: it is not a JSON object.
    """
    try:
        fields = json.loads(config)
    except ValueError as error:
        raise InvalidSetting(f"SPECULATIVE_CONFIG={config!r} is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise InvalidSetting(f"SPECULATIVE_CONFIG={config!r} must be a JSON object.")
    return fields


def _vocabulary_size(folder: Path) -> int | None:
    config = model_config(folder)
    text = config.get("text_config")
    size = (text if isinstance(text, dict) else config).get("vocab_size")
    return size if isinstance(size, int) else None
