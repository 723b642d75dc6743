"""The files of a repository that an engine loads, by their names alone."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from handler.model import mistral
from handler.model.checkpoint import CONFIG, INDEX, file_names, index_of_weights, shards
from handler.model.reference import ArtifactKind

CONFIG_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".py")
OTHER_INDEX = re.compile(r"\.(bin|h5|msgpack|fp\d+|fp\d+\.safetensors)\.index\.json$|^consolidated")
SKIPPED_FOLDERS = ("original", "onnx", "openvino", "metal", "coreml", "gguf", "runs", "checkpoint-")
LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)", re.IGNORECASE)
SENTENCE_TRANSFORMERS_MODULE = re.compile(r"\d+_[^/]*/.*\.safetensors$", re.DOTALL)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
LORA_FILES = ("adapter_config.json", "adapter_model.safetensors")
OTHER_FORMATS = {
    ".gguf": "GGUF",
    ".onnx": "ONNX",
    ".npz": "MLX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
}
TRAINING_STATE = re.compile(r"optimizer|scheduler|scaler|rng_state|training_args")
MISTRAL_TOKENIZER = re.compile(r"tokenizer\.model\.v\w+")


def engine_files(
    kind: ArtifactKind,
    names: Iterable[str],
    indexed: Collection[str] | None = None,
    *,
    mistral_requested: bool = False,
) -> list[str]:
    """Return the files to download, without the same weights in a second format.

    Args:
        kind: a tokenizer has no weights, a LoRA adapter only its two files, code only Python
            files.
        names: every file of the repository.
        indexed: the weights in the index of that format, None without an index.
        mistral_requested: whether the settings ask for Mistral's own format.
    """
    names = list(names)
    if kind == "lora":
        return sorted(name for name in names if name in LORA_FILES or LICENCE.match(name))
    if kind == "code":
        return sorted(name for name in names if name.endswith(".py"))
    selected = {name for name in names if _is_configuration(name)}
    if kind == "model":
        if mistral.is_used(names, mistral_requested):
            weights = set(filter(mistral.is_weight, names))
            selected |= weights if indexed is None else weights & set(indexed)
            selected |= {mistral.INDEX} & set(names)
            return sorted(selected)
        selected |= _weights(names, indexed)
        selected |= {name for name in names if SENTENCE_TRANSFORMERS_MODULE.match(name)}
    return sorted(selected)


def required_files(names: Iterable[str]) -> list[str]:
    """Leave out the licence, which other downloads may have skipped."""
    return [name for name in names if not LICENCE.match(name)]


def pickle_files(names: Iterable[str]) -> list[str]:
    """Return the pickled weights, without training state."""
    return sorted(n for n in names if n.endswith(PICKLE_SUFFIXES) and not TRAINING_STATE.search(n))


def broken_links(folder: Path, kind: ArtifactKind, mistral_requested: bool = False) -> list[str]:
    """Return the links to files that are gone, of those in a folder that an engine loads.

    Raises:
        ModelUnavailable: the index cannot be read.
    """
    broken = {path.name for path in folder.iterdir() if path.is_symlink() and not path.exists()}
    if not broken:
        return []
    names = file_names(folder) | broken
    index = index_of_weights(names, mistral_requested) if kind == "model" else None
    indexed = shards(folder, index) if index and index not in broken else None
    loaded = engine_files(kind, names, indexed, mistral_requested=mistral_requested)
    return [name for name in required_files(loaded) if name in broken]


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether a tokenizer is among the files; its formats have one of these names in common."""
    return any(
        "/" not in name and ("token" in name or name.startswith(("vocab", "tekken")))
        for name in names
    )


def other_kind_reason(repository: str, names: Collection[str]) -> str | None:
    """Return what a repository without config.json is, None if unknown."""
    if LORA_FILES[0] in names:
        return (
            f"{repository} is a LoRA adapter: name it in LORA_MODULES, and give the model that "
            f"base_model_name_or_path in its {LORA_FILES[0]} names"
        )
    if "model_index.json" in names:
        return f"{repository} is a Diffusers pipeline, not a language model"
    return _only_format_reason(repository, names)


def no_model_reason(repository: str, names: Collection[str]) -> str:
    """Return why a repository's configuration and weights cannot be loaded as a model."""
    if CONFIG not in names:
        if reason := other_kind_reason(repository, names):
            return reason
        if any(name.endswith(".safetensors") for name in names):
            return f"{repository} has no {CONFIG}"
    return no_weights_reason(repository, names)


def no_weights_reason(repository: str, names: Collection[str]) -> str:
    """Return why none of a repository's weights can be used."""
    if pickles := pickle_files(names):
        return (
            f"{repository} has its weights only as pickle ({pickles[0]}), and loading pickle can "
            "run any code: choose a repository with safetensors"
        )
    return _only_format_reason(repository, names) or f"{repository} has no weights"


def _only_format_reason(repository: str, names: Collection[str]) -> str | None:
    if any(name.endswith((".safetensors", *PICKLE_SUFFIXES)) for name in names):
        return None
    for suffix, title in OTHER_FORMATS.items():
        if any(name.endswith(suffix) for name in names):
            return f"{repository} has only {title} weights: choose one with safetensors"
    return None


def _weights(names: Collection[str], indexed: Collection[str] | None) -> set[str]:
    weights = {name for name in names if name.endswith(".safetensors") and "/" not in name}
    if indexed is not None:
        return weights & set(indexed)
    if "model.safetensors" in weights:
        return {"model.safetensors"}
    return {name for name in weights if not mistral.is_weight(name)} or weights


def _is_configuration(name: str) -> bool:
    """Whether it is configuration, tokenizer or licence."""
    path = PurePosixPath(name)
    if path.parts[0].startswith((*SKIPPED_FOLDERS, ".")) and len(path.parts) > 1:
        return False
    if name == INDEX or (len(path.parts) == 1 and LICENCE.match(name)):
        return True
    if MISTRAL_TOKENIZER.fullmatch(name):
        return True
    return path.suffix in CONFIG_SUFFIXES and not OTHER_INDEX.search(path.name)
