"""Selection of a repository's files, and the check of its quantization."""

import fnmatch
from collections.abc import Collection
from pathlib import Path

from builder.errors import CheckpointRefused
from builder.fetch.request import FetchRequest
from handler.model import hub_files, mistral
from handler.model.checkpoint import CONFIG, INDEX
from handler.model.quantization import method_matches

PICKLE_INDEX = "pytorch_model.bin.index.json"


def select_files(
    request: FetchRequest, names: Collection[str], indexed: Collection[str] | None
) -> list[str]:
    """Return the paths of the files to fetch, sorted.

    Args:
        request: the repository to fetch.
        names: every file of the repository.
        indexed: the weight files in the repository's index, None if it has no index.

    Raises:
        CheckpointRefused: the configuration or the weights are missing, or only pickle files exist.
    """
    if request.kind == "lora":
        if missing := [name for name in hub_files.LORA_FILES if name not in names]:
            raise CheckpointRefused(
                f"{request.repository} has no {missing[0]}: it is not a LoRA adapter."
            )
        return hub_files.engine_files("lora", names)
    if request.kind == "tokenizer":
        usual = hub_files.engine_files("tokenizer", names)
        selected = _matching(request, names) if request.patterns else usual
        if not hub_files.has_tokenizer(selected):
            raise CheckpointRefused(f"{request.repository} has no tokenizer.")
        return selected
    usual = hub_files.engine_files(
        "model", names, indexed, mistral_requested=request.mistral_requested
    )
    selected = _matching(request, names) if request.patterns else usual
    _check_completeness(request, names, set(selected), set(indexed or ()))
    return sorted(selected)


def _check_completeness(
    request: FetchRequest, names: Collection[str], selected: set[str], indexed: set[str]
) -> None:
    matching = " that matches ALLOW_PATTERNS" if request.patterns else ""
    if CONFIG not in selected and not mistral.is_only_format(selected):
        other = hub_files.other_kind_reason(request.repository, names)
        if other and CONFIG not in names:
            raise CheckpointRefused(f"{other}.")
        raise CheckpointRefused(
            f"{request.repository} has no {CONFIG}{matching}: every engine needs it, or Mistral's "
            f"{mistral.PARAMS} with consolidated.safetensors."
        )
    pickles = hub_files.pickle_files(selected)
    if not pickles and not any(name.endswith(".safetensors") for name in selected):
        raise CheckpointRefused(_no_weights(request, names))
    if pickles and INDEX not in selected:
        needed = indexed if PICKLE_INDEX in selected else set()
    else:
        needed = {name for name in indexed if name.endswith(".safetensors")}
    if missing := sorted(needed - selected):
        raise CheckpointRefused(
            f"{request.repository} has no {missing[0]}{matching}, but its index lists that file."
        )


def _matching(request: FetchRequest, names: Collection[str]) -> list[str]:
    """Return the files that match; pickle files only by a pattern with their suffix."""
    return [
        name
        for name in names
        for suffix in [Path(name).suffix]
        if any(
            fnmatch.fnmatch(name, pattern)
            and (suffix not in hub_files.PICKLE_SUFFIXES or pattern.endswith(suffix))
            for pattern in request.patterns
        )
    ]


def _no_weights(request: FetchRequest, names: Collection[str]) -> str:
    if request.patterns:
        return f"{request.repository} has no weights that match ALLOW_PATTERNS."
    sentence = hub_files.no_weights_reason(request.repository, names)
    if pickles := [name for name in hub_files.pickle_files(names) if "/" not in name]:
        pattern = "pytorch_model*.bin" if pickles[0].startswith("pytorch_model") else pickles[0]
        sentence += f", or allow it by name with ALLOW_PATTERNS='{pattern} *.json *.txt *.model'"
    return f"{sentence}."


def require_quantization(request: FetchRequest, found: str | None) -> None:
    """Compare the checkpoint's quantization with the requested one.

    Args:
        request: the repository to fetch.
        found: the method that the checkpoint names, None for an unquantized one.

    Raises:
        CheckpointRefused: they differ; the message says which value of QUANTIZATION accepts it.
    """
    asked, name = request.quantization, request.repository
    if found is None:
        if asked == "auto":
            raise CheckpointRefused(
                f"{name} is not quantized: choose a quantized repository (its name often ends in "
                "-AWQ or -FP8; on the hub, open the model's page and look under Quantizations), "
                "make one (python -m builder quantize), or set QUANTIZATION=none to use it "
                "unquantized."
            )
        if asked != "none":
            raise CheckpointRefused(
                f"QUANTIZATION={asked} contradicts the checkpoint: {name} is not quantized. "
                "QUANTIZATION=none accepts it."
            )
        return
    if asked == "none":
        raise CheckpointRefused(
            f"QUANTIZATION=none contradicts the checkpoint: {name} is quantized as {found!r}."
        )
    if asked == "auto" and not (method_matches("awq", found) or method_matches("fp8", found)):
        raise CheckpointRefused(
            f"{name} is quantized as {found!r}, which is neither AWQ nor FP8. "
            f"QUANTIZATION={found} accepts it."
        )
    if asked != "auto" and not method_matches(asked, found):
        raise CheckpointRefused(
            f"QUANTIZATION={asked} contradicts the checkpoint: {name} is quantized as {found!r}."
        )
