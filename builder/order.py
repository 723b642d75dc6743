"""What is to be fetched, and whether a repository has it: the files, and the quantization."""

import fnmatch
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from builder.errors import Refused
from handler.checkpoint import is_of
from handler.hub import choice

Kind = Literal["model", "draft", "tokenizer"]


@dataclass(frozen=True)
class Order:
    """What to fetch.

    Attributes:
        repository: its name on the hub, org/name.
        revision: a branch, tag or commit.
        kind: a draft may be unquantized, a tokenizer has no weights.
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


def choose(order: Order, names: Collection[str], shards: Collection[str] | None) -> list[str]:
    """Choose the files to fetch.

    Raises:
        Refused: the repository has no configuration or no weights that may be taken.
    """
    if order.patterns:
        chosen = [n for n in names if any(fnmatch.fnmatch(n, p) for p in order.patterns)]
    elif order.kind == "tokenizer":
        chosen = choice.small(names)
    else:
        chosen = choice.wanted(names, shards)
    if order.kind == "tokenizer":
        if not choice.has_tokenizer(chosen):
            raise Refused(f"{order.repository} has no tokenizer.")
        return chosen
    if "config.json" not in chosen:
        said = " that ALLOW_PATTERNS lets through" if order.patterns else ""
        raise Refused(f"{order.repository} has no config.json{said}: no engine can load it.")
    if not any(name.endswith((".safetensors", *choice.PICKLE)) for name in chosen):
        raise Refused(_no_weights(order, names))
    return sorted(chosen)


def _no_weights(order: Order, names: Collection[str]) -> str:
    if order.patterns:
        return f"{order.repository} has no weights that ALLOW_PATTERNS lets through."
    if pickles := [name for name in names if name.endswith(choice.PICKLE)]:
        return (
            f"{order.repository} has its weights only as pickle ({pickles[0]}), and reading those "
            "can run any code: choose a repository with safetensors, or allow them by name with "
            f"ALLOW_PATTERNS='{Path(pickles[0]).name} *.json *.txt *.model'."
        )
    if any(name.endswith(".gguf") for name in names):
        return f"{order.repository} has only GGUF weights: choose one with safetensors."
    return f"{order.repository} has no weights."


def check(order: Order, found: str | None) -> None:
    """Compare what the checkpoint says of its quantization with what was asked for.

    Raises:
        Refused: with what to do about it.
    """
    wanted, name = order.quantization, order.repository
    if found is None and wanted == "auto":
        raise Refused(
            f"{name} is not quantized: choose a quantized repository (its name often ends in -AWQ "
            "or -FP8; on the hub, open the model's page and look under Quantizations), or set "
            "QUANTIZATION=none to take it as it is."
        )
    if found is None and wanted != "none":
        raise Refused(
            f"QUANTIZATION={wanted} contradicts the checkpoint: {name} is not quantized. "
            "QUANTIZATION=none takes it as it is."
        )
    if found is None:
        return
    if wanted == "auto" and not (is_of("awq", found) or is_of("fp8", found)):
        raise Refused(
            f"{name} is quantized as {found!r}, which is neither AWQ nor FP8. "
            f"QUANTIZATION={found} takes it."
        )
    if wanted != "auto" and not is_of(wanted, found):
        raise Refused(
            f"QUANTIZATION={wanted} contradicts the checkpoint: {name} is quantized as {found!r}."
        )
