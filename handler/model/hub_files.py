"""Which files of a repository an engine loads, by their names alone."""

import re
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from handler.model.checkpoint import INDEX

SMALL = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".py")  # configuration and tokenizer
OTHER_INDEX = re.compile(r"\.(bin|h5|msgpack|fp\d+|fp\d+\.safetensors)\.index\.json$|^consolidated")
LEFT_OUT = ("original", "onnx", "openvino", "metal", "coreml", "gguf", "runs", "checkpoint-")
LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)", re.IGNORECASE)
MODULE = re.compile(r"\d+_")  # the folders of a sentence-transformers model
PICKLE = (".bin", ".pt", ".pth", ".ckpt")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
TRAINING = re.compile(r"optimizer|scheduler|scaler|rng_state|training_args")


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


def needed(names: Iterable[str]) -> list[str]:
    """Leave out what an engine can do without: the licence, which others may not have fetched."""
    return [name for name in names if not LICENCE.match(name)]


def pickles(names: Iterable[str]) -> list[str]:
    """Choose the weights that are pickled, and not what a training left behind."""
    return sorted(n for n in names if n.endswith(PICKLE) and not TRAINING.search(n))


def has_tokenizer(names: Iterable[str]) -> bool:
    """Say whether a tokenizer is among the files: it has many forms, and one of these names."""
    return any(
        "/" not in name and ("token" in name or name.startswith(("vocab", "tekken")))
        for name in names
    )


def adapter(names: Iterable[str]) -> list[str]:
    """Choose what an engine loads of a LoRA adapter."""
    return sorted(name for name in names if name in ADAPTER or LICENCE.match(name))


def lack_of_weights(repository: str, names: Collection[str]) -> str:
    """Say why a repository has no weights that may be taken."""
    if found := pickles(names):
        return (
            f"{repository} has its weights only as pickle ({found[0]}), and reading those can run "
            "any code: choose a repository with safetensors"
        )
    if any(name.endswith(".gguf") for name in names):
        return f"{repository} has only GGUF weights: choose one with safetensors"
    return f"{repository} has no weights"


def _is_small(name: str) -> bool:
    path = PurePosixPath(name)
    if path.parts[0].startswith((*LEFT_OUT, ".")) and len(path.parts) > 1:
        return False
    if name == INDEX or (len(path.parts) == 1 and LICENCE.match(name)):
        return True
    return path.suffix in SMALL and not OTHER_INDEX.search(path.name)


def _is_module(name: str) -> bool:
    return name.endswith(".safetensors") and MODULE.match(name) is not None and "/" in name
