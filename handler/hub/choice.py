"""Which files of a repository an engine loads, by their names alone."""

import re
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from handler.checkpoint import INDEX

SMALL = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".py")  # configuration and tokenizer
OTHER_INDEX = re.compile(r"\.(bin|h5|msgpack|fp\d+|fp\d+\.safetensors)\.index\.json$|^consolidated")
LEFT_OUT = ("original", "onnx", "openvino", "metal", "coreml", "gguf", "runs", "checkpoint-")
LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)", re.IGNORECASE)
MODULE = re.compile(r"\d+_")  # the folders of a sentence-transformers model
PICKLE = (".bin", ".pt", ".pth", ".ckpt")


def wanted(names: Collection[str], shards: Collection[str] | None) -> list[str]:
    """Choose what an engine loads, and not the same weights again in another format.

    Args:
        names: every file of the repository.
        shards: the files that the repository's index names, None where it has no index.
    """
    weights = {name for name in names if name.endswith(".safetensors") and "/" not in name}
    if shards is not None:
        weights &= set(shards)
    elif "model.safetensors" in weights:
        weights = {"model.safetensors"}
    else:
        weights = {n for n in weights if not n.startswith("consolidated")} or weights
    return sorted(weights | {name for name in names if _is_small(name) or _is_module(name)})


def small(names: Iterable[str]) -> list[str]:
    """Choose the configuration and the tokenizer alone."""
    return sorted(name for name in names if _is_small(name))


def has_tokenizer(names: Iterable[str]) -> bool:
    """Say whether a tokenizer is among the files: they have many forms, and always such a name."""
    return any("token" in name or name.startswith("vocab") for name in names)


def _is_small(name: str) -> bool:
    path = PurePosixPath(name)
    if path.parts[0].startswith((*LEFT_OUT, ".")) and len(path.parts) > 1:
        return False
    if name == INDEX or (len(path.parts) == 1 and LICENCE.match(name)):
        return True
    return path.suffix in SMALL and not OTHER_INDEX.search(path.name)


def _is_module(name: str) -> bool:
    return name.endswith(".safetensors") and MODULE.match(name) is not None and "/" in name
