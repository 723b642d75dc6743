"""What is to be fetched, and whether a repository has it: the files, and the quantization."""

import fnmatch
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from builder.errors import CheckpointRefused
from handler.model import hub_files
from handler.model.checkpoint import INDEX, method_matches
from handler.model.reference import HubReference

Kind = Literal["model", "draft", "tokenizer", "lora"]
SETTINGS: dict[Kind, str] = {
    "model": "MODEL_NAME",
    "draft": "DRAFT_MODEL_NAME",
    "tokenizer": "TOKENIZER_NAME",
    "lora": "LORA_MODULES",
}
PICKLE_INDEX = "pytorch_model.bin.index.json"


@dataclass(frozen=True)
class Order:
    """What to fetch.

    Attributes:
        repository: its name on the hub, org/name.
        revision: a branch, tag or commit.
        kind: a draft may be unquantized, a tokenizer has no weights, and a LoRA adapter
            is loaded beside a model.
        quantization: `auto` for AWQ or FP8, `none` for an unquantized checkpoint, or a method.
        patterns: of the files to take instead of those that an engine is known to load.
        token: for gated and private repositories.
    """

    repository: str
    revision: str = "main"
    kind: Kind = "model"
    quantization: str = "auto"
    patterns: tuple[str, ...] = ()
    token: SecretStr | None = None

    def reference(self) -> HubReference:
        """Return the repository with the build argument that names it."""
        return HubReference(self.repository, self.revision, SETTINGS[self.kind], self.token)


def choose(order: Order, names: Collection[str], shards: Collection[str] | None) -> list[str]:
    """Choose the files to fetch.

    Args:
        order: what is wanted.
        names: every file of the repository.
        shards: the files that its index names, None where it has no index.

    Raises:
        CheckpointRefused: the repository has no configuration or no weights that may be taken.
    """
    if order.kind == "tokenizer":
        return _tokenizer(order, names)
    if order.kind == "lora":
        return _adapter(order, names)
    usual = hub_files.select_files("model", names, shards)
    chosen = _matching(order, names) if order.patterns else usual
    through = " that ALLOW_PATTERNS lets through" if order.patterns else ""
    if "config.json" not in chosen:
        raise CheckpointRefused(
            f"{order.repository} has no config.json{through}: no engine can load it."
        )
    pickles = hub_files.pickle_files(chosen)
    if not pickles and not any(name.endswith(".safetensors") for name in chosen):
        raise CheckpointRefused(_no_weights(order, names))
    if pickles and INDEX not in chosen:
        needed = set(shards or ()) if PICKLE_INDEX in chosen else set()
    else:
        needed = {name for name in shards or () if name.endswith(".safetensors")}
    if lost := sorted(needed - set(chosen)):
        raise CheckpointRefused(
            f"{order.repository} has no {lost[0]}{through}, which its index names."
        )
    return sorted(chosen)


def _tokenizer(order: Order, names: Collection[str]) -> list[str]:
    usual = hub_files.select_files("tokenizer", names)
    chosen = _matching(order, names) if order.patterns else usual
    if not hub_files.has_tokenizer(chosen):
        raise CheckpointRefused(f"{order.repository} has no tokenizer.")
    return chosen


def _adapter(order: Order, names: Collection[str]) -> list[str]:
    if lost := [name for name in hub_files.LORA_FILES if name not in names]:
        raise CheckpointRefused(f"{order.repository} has no {lost[0]}: it is no LoRA adapter.")
    return hub_files.select_files("lora", names)


def _matching(order: Order, names: Collection[str]) -> list[str]:
    """Take what the patterns let through; pickle has to be meant: `*.bin`, not `*`."""
    return [
        name
        for name in names
        for suffix in [Path(name).suffix]
        if any(
            fnmatch.fnmatch(name, pattern)
            and (suffix not in hub_files.PICKLE_SUFFIXES or pattern.endswith(suffix))
            for pattern in order.patterns
        )
    ]


def _no_weights(order: Order, names: Collection[str]) -> str:
    if order.patterns:
        return f"{order.repository} has no weights that ALLOW_PATTERNS lets through."
    sentence = hub_files.no_weights_reason(order.repository, names)
    if pickles := [name for name in hub_files.pickle_files(names) if "/" not in name]:
        pattern = "pytorch_model*.bin" if pickles[0].startswith("pytorch_model") else pickles[0]
        sentence += f", or allow it by name with ALLOW_PATTERNS='{pattern} *.json *.txt *.model'"
    return f"{sentence}."


def check(order: Order, found: str | None) -> None:
    """Compare what the checkpoint says of its quantization with what was asked for.

    Raises:
        CheckpointRefused: with what to do about it.
    """
    wanted, name = order.quantization, order.repository
    if found is None and wanted == "auto":
        raise CheckpointRefused(
            f"{name} is not quantized: choose a quantized repository (its name often ends in -AWQ "
            "or -FP8; on the hub, open the model's page and look under Quantizations), make one "
            "(python -m builder quantize), or set QUANTIZATION=none to take it as it is."
        )
    if found is None and wanted != "none":
        raise CheckpointRefused(
            f"QUANTIZATION={wanted} contradicts the checkpoint: {name} is not quantized. "
            "QUANTIZATION=none takes it as it is."
        )
    if found is None:
        return
    if wanted == "none":
        raise CheckpointRefused(
            f"{name} is quantized already, as {found!r}: QUANTIZATION=none takes a checkpoint that "
            "is not."
        )
    if wanted == "auto" and not (method_matches("awq", found) or method_matches("fp8", found)):
        raise CheckpointRefused(
            f"{name} is quantized as {found!r}, which is neither AWQ nor FP8. "
            f"QUANTIZATION={found} takes it."
        )
    if wanted != "auto" and not method_matches(wanted, found):
        raise CheckpointRefused(
            f"QUANTIZATION={wanted} contradicts the checkpoint: {name} is quantized as {found!r}."
        )
